// MachineSpec: what a computer looks like when it is switched on, as plain data.
//
// `obeyed` does to it what the command line says before anything is laid out; `zonesOf` cuts the RAM ranges at the zone
// borders of spec 1.4: DMA below 16 MiB, DMA32 below 4 GiB, Normal above, Movable from a frame that the spec names or the
// command line decides (movable-boot.ts). A range may name its zone itself: that is how a twin repeats what a capture
// says.

import { assert } from '#base/assert';
import type { NodeId, Pfn } from '#base/units';
import { toPfn } from '#base/units';
import { bootParamsOf } from './boot-params.ts';
import type { Placement } from './free-area.ts';
import { DMA_END, DMA32_END, PAGE_SHIFT } from './geometry.ts';
import type { HotplugSettings } from './hotplug.ts';
import type { KernelName } from './kernel-profile.ts';
import { findZoneMovable, type MovableBoot } from './movable-boot.ts';
import { ZONE_DMA, ZONE_DMA32, ZONE_MOVABLE, ZONE_NORMAL, type ZoneIndex } from './page-class.ts';
import type { ResourceSpec } from './resource.ts';
import type { WatermarkSettings } from './watermark.ts';

/** RAM: frames [start, end) of one node. */
export type RamRange = {
  readonly start: Pfn;
  readonly end: Pfn;
  readonly node: NodeId;
  /** Undefined: by its address (spec 1.4). */
  readonly zone?: ZoneIndex;
  /** Present but offline: it belongs to no pool. Whole memory blocks only. */
  readonly offline?: boolean;
  /** The firmware says that it may be taken out (SRAT, spec 1.12): movable_node makes it Movable. */
  readonly hotpluggable?: boolean;
  /** Kept twice by the memory controller (EFI_MEMORY_MORE_RELIABLE): kernelcore=mirror keeps the kernel there. */
  readonly mirrored?: boolean;
};

export type ReservedRange = {
  readonly start: Pfn;
  readonly end: Pfn;
  readonly name: string;
};

export type MachineSpec = {
  /** Which Linux it behaves as (kernel-profile.ts). Default 6.12. */
  readonly kernel?: KernelName;
  /** The kernel command line: obeyed at boot (boot-params.ts). */
  readonly cmdline?: string;
  /** 'strict' (default): undo undoes, where Linux leaves a trace (docs/fidelity.md). 'linux': to the letter. */
  readonly compat?: 'linux' | 'strict';
  /** Memory hotplug settings that differ from those of the kernel's profile. */
  readonly hotplug?: Partial<HotplugSettings>;
  /** Who has which addresses, /proc/iomem; default: the RAM ranges, whole, as System RAM. */
  readonly iomem?: readonly ResourceSpec[];
  /** Nodes that memory may be added to; default: 0..63 (the firmware's tables decide on real machines). */
  readonly possibleNodes?: readonly NodeId[];
  /** Sorted or not; must not overlap. */
  readonly ram: readonly RamRange[];
  /** Parts of the RAM that never reach the allocator (kernel image, firmware, boot memmap). */
  readonly reserved?: readonly ReservedRange[];
  /** CMA areas: whole pageblocks, free at boot, each in one zone (cma.ts). */
  readonly cma?: readonly ReservedRange[];
  /** First frame of Movable, by node; wins over what the command line asks for. */
  readonly movableStart?: ReadonlyMap<NodeId, Pfn>;
  /** Bytes; undefined = the x86-64 rule of spec 1.2. */
  readonly blockSize?: number;
  /** The x86-64 rule asks: is there a hypervisor? Default true. */
  readonly hypervisor?: boolean;
  /** CPU numbers of each node; a node may have CPUs and no RAM. Gives `cpus` and `nodeCpus` where they are not said. */
  readonly cpuMask?: ReadonlyMap<NodeId, readonly number[]>;
  /** CPUs that have per-CPU lists. Default 1. */
  readonly cpus?: number;
  /** How many of them are near each node: the longest a per-CPU list gets (spec 2.4). A node that is not named: all. */
  readonly nodeCpus?: ReadonlyMap<NodeId, number>;
  readonly placement?: Placement;
  /** 'tag' (default) models each frame's contents by 11 bits that every move must carry along; 'bytes' gives written
   *  frames 4096 real bytes on top; 'none' for benchmarks. */
  readonly contents?: 'none' | 'tag' | 'bytes';
  /** 'none': allocations may take the last frame. Default: computed by spec 2.5 with factor 10 and no THP. */
  readonly watermarks?: 'none' | WatermarkSettings;
  /** distance[a][b] of the possible nodes, or of those online at boot, in ascending id; default 10 local, 20 remote. */
  readonly distance?: readonly (readonly number[])[];
  /** 'free' (default): all RAM that is not reserved is free. 'nothing': the caller places every frame (twins). */
  readonly populate?: 'free' | 'nothing';
  /** Machine code of the pools: see PoolConfig.code. Default 'own'. */
  readonly code?: 'own' | 'shared';
};

export type ZonedRange = Required<Omit<RamRange, 'hotpluggable' | 'mirrored'>>;

/**
 * What a machine is after its command line was obeyed: RAM that mem= cuts off is gone, CPUs are counted from their
 * masks, per-CPU lists are sized by percpu_pagelist_high_fraction. Ranges that name their zone, and offline ones, are not boot memory: mem= leaves them alone.
 */
export function obeyed(spec: MachineSpec): MachineSpec {
  const { memEndPfn, percpuPagelistHighFraction: fraction } = bootParamsOf(spec);
  const below = <R extends { readonly start: Pfn; readonly end: Pfn }>(r: R): R[] =>
    r.start >= memEndPfn ? [] : [{ ...r, end: toPfn(Math.min(r.end, memEndPfn)) }];
  const atBoot = (r: RamRange): boolean => r.zone === undefined && r.offline !== true;
  const cuts = spec.ram.some((r) => atBoot(r) && r.end > memEndPfn);
  const masks = [...(spec.cpuMask ?? [])].filter(([, cpus]) => cpus.length > 0);
  const marks = spec.watermarks ?? { scaleFactor: 10, thp: false };
  const pcp = fraction > 0 && marks !== 'none' && marks.highFraction === undefined;
  if (!cuts && !pcp && masks.length === 0) return spec;
  return {
    ...spec,
    ...(pcp ? { watermarks: { ...marks, highFraction: fraction } } : {}),
    ...(masks.length === 0
      ? {}
      : {
          cpus: spec.cpus ?? masks.reduce((n, [, cpus]) => n + cpus.length, 0),
          nodeCpus: spec.nodeCpus ?? new Map(masks.map(([node, cpus]) => [node, cpus.length])),
        }),
    ...(cuts
      ? {
          ram: spec.ram.flatMap((r) => (atBoot(r) ? below(r) : [r])),
          reserved: (spec.reserved ?? []).flatMap(below),
        }
      : {}),
  };
}

/** First frame of Movable on each node: what the spec says, else what the command line asks for. */
export function movableOf(spec: MachineSpec): MovableBoot {
  const ram = spec.ram.filter((r) => r.zone === undefined && r.offline !== true);
  const first = ram.reduce(
    (low: RamRange | undefined, r) => (low === undefined || r.start < low.start ? r : low),
    undefined,
  );
  // The kernel's own memory: what is reserved, and the first MiB, which x86 always keeps.
  const holdsReserved = (r: RamRange): boolean =>
    spec.reserved?.some((x) => x.start < r.end && r.start < x.end) === true;
  const kernelNodes = new Set(ram.filter((r) => r === first || holdsReserved(r)).map((r) => r.node));
  const asked = findZoneMovable(ram, bootParamsOf(spec), kernelNodes);
  return { ...asked, start: new Map([...asked.start, ...(spec.movableStart ?? [])]) };
}

/** The RAM cut at zone borders, ascending. */
export function zonesOf(spec: MachineSpec): ZonedRange[] {
  const out: ZonedRange[] = [];
  const ram = [...spec.ram].sort((a, b) => a.start - b.start);
  for (let k = 0; k < ram.length; k++) {
    const r = ram[k] as RamRange;
    assert(Number.isInteger(r.start) && Number.isInteger(r.end) && r.start >= 0, 'RAM ranges are whole frames', r);
    assert(r.start < r.end, 'an empty RAM range', r);
    const before = ram[k - 1];
    assert(before === undefined || before.end <= r.start, 'RAM ranges overlap', { before, range: r });
  }
  const { start: movableStart, mirror } = movableOf(spec);
  for (const r of ram) {
    const offline = r.offline ?? false;
    if (r.zone !== undefined) {
      out.push({ start: r.start, end: r.end, node: r.node, zone: r.zone, offline });
      continue;
    }
    const kept = mirror && r.mirrored === true;
    const movable = kept ? Number.POSITIVE_INFINITY : (movableStart.get(r.node) ?? Number.POSITIVE_INFINITY);
    const borders = [DMA_END, DMA32_END, movable].filter((b) => b > r.start && b < r.end).sort((a, b) => a - b);
    let start: number = r.start;
    for (const end of [...borders, r.end]) {
      const byAddress = start < DMA_END ? ZONE_DMA : start < DMA32_END ? ZONE_DMA32 : ZONE_NORMAL;
      out.push({
        start: toPfn(start),
        end: toPfn(end),
        node: r.node,
        zone: start >= movable ? ZONE_MOVABLE : byAddress,
        offline,
      });
      start = end;
    }
  }
  return out;
}

/** Convenience for tests and examples: one node with `bytes` of RAM from address 0 on, without a hole. */
export function simpleSpec(bytes: number, rest: Omit<MachineSpec, 'ram'> = {}): MachineSpec {
  const pages = Math.floor(bytes / 2 ** PAGE_SHIFT);
  return { ram: [{ start: toPfn(0), end: toPfn(pages), node: 0 as NodeId }], ...rest };
}
