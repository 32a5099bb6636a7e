// Sim report: what became of a machine file when it booted, as plain data for text and JSON alike.
//
// Zones that span nothing are left out; a zone counts what pools carved out of it, as /proc/zoneinfo does; neighbouring memory blocks that say the same are one row, as in lsmem. Addresses
// and sizes are bytes, zones count frames of 4 KiB as /proc/zoneinfo does.

import { type Machine, PAGE_SIZE, toHolderId, ZONE_NAMES, type ZoneName } from '#mm/index';
import { movableOf } from '#mm/machine-spec';
import { zoneTotals } from '#mm/pools/pool-watermarks';
import type { DimmPlan, MachineFile } from './machine-file.ts';

export type SimNode = { readonly node: number; readonly cpus: number; readonly presentBytes: number };

export type SimZone = {
  readonly node: number;
  readonly zone: ZoneName;
  readonly startPfn: number;
  readonly spannedPages: number;
  readonly presentPages: number;
  readonly managedPages: number;
};

export type SimBlocks = {
  readonly firstBlock: number;
  readonly lastBlock: number;
  readonly startPhys: number;
  readonly endPhys: number;
  readonly node: number;
  readonly state: string;
  /** As the kernel's valid_zones: of an online block its zone; empty where it lies in several. */
  readonly validZones: readonly string[];
};

export type SimReport = {
  readonly name?: string;
  readonly kernel: string;
  readonly cmdline: string;
  readonly blockSizeBytes: number;
  readonly presentBytes: number;
  readonly managedBytes: number;
  readonly nodes: readonly SimNode[];
  readonly zones: readonly SimZone[];
  readonly blocks: readonly SimBlocks[];
  /** Huge pages that the command line asked for, and how many there were to have. */
  readonly hugepages: readonly { readonly sizeBytes: number; readonly asked: number; readonly got: number }[];
  /** Words of the command line that had no effect, are not known, or are obeyed under another name. */
  readonly words: readonly {
    readonly word: string;
    readonly kind: 'ignored' | 'unknown' | 'alias';
    readonly why: string;
  }[];
  /** What else may surprise: about Movable, and about the firmware's table. */
  readonly notes: readonly string[];
  /** To be added after boot; not added here. */
  readonly dimms: readonly DimmPlan[];
};

/** @param m  the machine that `file.spec` booted. `all`: a row for each memory block. Cost O(blocks + huge pages) */
export function simReport(file: MachineFile, m: Machine, options: { all: boolean }): SimReport {
  const zones = m.zones
    .filter((p) => p.spanned > 0)
    .map((p) => ({ node: p.node, zone: p.zone, startPfn: p.startPfn, spanned: p.spanned, ...zoneTotals(m, p) }));
  const sum = (of: (p: (typeof zones)[number]) => number): number => zones.reduce((n, p) => n + of(p) * PAGE_SIZE, 0);
  return {
    ...(file.name === undefined ? {} : { name: file.name }),
    kernel: m.profile.name,
    cmdline: m.spec.cmdline ?? '',
    blockSizeBytes: m.blockPages * PAGE_SIZE,
    presentBytes: sum((p) => p.present),
    managedBytes: sum((p) => p.managed),
    nodes: m.nodes.map((node) => ({
      node,
      cpus: m.spec.cpuMask?.get(node)?.length ?? 0,
      presentBytes: sum((p) => (p.node === node ? p.present : 0)),
    })),
    zones: zones.map((p) => ({
      node: p.node,
      zone: ZONE_NAMES[p.zone] as ZoneName,
      startPfn: p.startPfn,
      spannedPages: p.spanned,
      presentPages: p.present,
      managedPages: p.managed,
    })),
    blocks: blockRows(m, options.all),
    hugepages: m.params.hugepages
      .filter((h) => h.count > 0)
      .map((h) => ({ sizeBytes: h.size, asked: h.count, got: Math.floor(hugeBytes(m, h.size) / h.size) })),
    words: m.params.remarks.map(({ word, kind, why }) => ({ word, kind, why })),
    notes: [...file.notes, ...movableOf(m.spec).notes],
    dimms: file.dimms,
  };
}

function blockRows(m: Machine, all: boolean): SimBlocks[] {
  const rows: { -readonly [K in keyof SimBlocks]: SimBlocks[K] }[] = [];
  for (const id of m.blockIds()) {
    const b = m.block(id);
    if (b === undefined) continue;
    const validZones = m.validZones(id);
    const last = rows[rows.length - 1];
    if (
      !all &&
      last !== undefined &&
      last.lastBlock + 1 === id &&
      last.node === b.node &&
      last.state === b.state &&
      last.validZones.join() === validZones.join()
    ) {
      last.lastBlock = id;
      last.endPhys = b.endPfn * PAGE_SIZE;
      continue;
    }
    rows.push({
      firstBlock: id,
      lastBlock: id,
      startPhys: b.startPfn * PAGE_SIZE,
      endPhys: b.endPfn * PAGE_SIZE,
      node: b.node,
      state: b.state,
      validZones,
    });
  }
  return rows;
}

/** Bytes that holders of huge pages have: nobody else holds any right after boot. */
function hugeBytes(m: Machine, size: number): number {
  const wanted = size === 2 ** 30 ? 'gigantic' : 'hugetlb';
  let bytes = 0;
  m.holders.specs.forEach((spec, holder) => {
    if (spec.class !== wanted) return;
    m.forEachFrameOf(toHolderId(holder), (_head, order) => {
      bytes += 2 ** order * PAGE_SIZE;
    });
  });
  return bytes;
}
