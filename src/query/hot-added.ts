// Hot-added ranges: which memory came after boot, as far as a capture tells.
//
//   evidence, the strongest first                                                              provenance
//   the hypervisor lists a DIMM there                                                          measured
//   /proc/iomem names the driver that added it: "System RAM (virtio_mem)", "System RAM (kmem)" measured
//   a "System RAM" line begins where another one ends: firmware's ranges would be one line     derived
//   a block of the line is in ZONE_MOVABLE, and no boot parameter makes such a zone            derived
//
// A kernel that counts (vmstat nr_memmap_pages, since 6.11) and counts none has no hot-added memory: then there are none, whatever
// the lines look like. A DIMM alone in its place and wholly in a kernel zone cannot be told from boot memory without the
// hypervisor: nothing is claimed of it.
//
// Source: Linux v6.12 mm/memory_hotplug.c: register_memory_resource(), mm/mm_init.c: find_zone_movable_pfns_for_nodes();
// arch/x86/kernel/e820.c: e820__update_table() merges adjoining ranges of one type.

import { cmdlineValue, parseCmdline } from '#kernfs/cmdline';
import { iomemHidden, parseIomem } from '#kernfs/iomem';
import { parseVmstat } from '#kernfs/vmstat';
import { PAGE_SIZE } from '#mm/index';
import type { Provenance, Twin } from '#twin/index';
import type { HypervisorFacts } from './doctor.ts';

export type AddedRange = {
  /** "DIMM dimm1", or the kernel's name of the range with its place. */
  readonly name: string;
  readonly startPhys: number;
  /** Exclusive. */
  readonly endPhys: number;
  readonly blocks: readonly number[];
  readonly provenance: Provenance;
};

/** Ascending by address; only ranges with at least one block that the kernel lists. */
export function addedRanges(twin: Twin, hypervisor: HypervisorFacts | undefined): AddedRange[] {
  const blockBytes = twin.blockPages * PAGE_SIZE;
  const made = (name: string, startPhys: number, endPhys: number, provenance: Provenance): AddedRange => ({
    name,
    startPhys,
    endPhys,
    blocks: twin.blocks
      .map((b): number => b.id)
      .filter((id) => startPhys <= id * blockBytes && (id + 1) * blockBytes <= endPhys),
    provenance,
  });
  const out: AddedRange[] = [];
  for (const d of hypervisor?.dimms ?? []) out.push(made(`DIMM ${d.id}`, d.addr, d.addr + d.size, 'measured'));
  for (const v of hypervisor?.virtioMem ?? [])
    out.push(made(`virtio-mem device ${v.id}`, v.addr, v.addr + v.maxSize, 'measured'));
  for (const r of rangesOfIomem(twin))
    if (!out.some((a) => a.startPhys < r.endPhys && r.startPhys < a.endPhys))
      out.push(made(r.name, r.startPhys, r.endPhys, r.provenance));
  return out.filter((r) => r.blocks.length > 0).sort((a, b) => a.startPhys - b.startPhys);
}

type Range = Omit<AddedRange, 'blocks'>;

function rangesOfIomem(twin: Twin): Range[] {
  const { tree } = twin.capture;
  const vmstat = parseVmstat(tree.readText('/proc/vmstat') ?? '');
  if (vmstat.ok && vmstat.value.get('nr_memmap_pages') === 0) return [];
  const iomem = parseIomem(tree.readText('/proc/iomem') ?? '');
  if (!iomem.ok || iomemHidden(iomem.value)) return [];
  const ram = iomem.value.filter((e) => e.name.startsWith('System RAM'));
  const ends = new Set(ram.filter((e) => e.depth === 0).map((e) => e.endPhys));
  const bootMovable = bootMakesMovable(twin);
  const blockBytes = twin.blockPages * PAGE_SIZE;
  const out: Range[] = [];
  for (const e of ram) {
    const driver = /^System RAM \((.+)\)$/.exec(e.name);
    const { startPhys, endPhys } = e;
    const place = `at 0x${startPhys.toString(16)}`;
    if (driver !== null) {
      out.push({ name: `memory that ${driver[1]} added ${place}`, startPhys, endPhys, provenance: 'measured' });
      continue;
    }
    const movable = twin.blocks.some(
      (b) =>
        startPhys <= b.id * blockBytes &&
        b.id * blockBytes < endPhys &&
        b.state === 'online' &&
        b.validZones?.[0] === 'Movable',
    );
    if (ends.has(startPhys) || (movable && !bootMovable))
      out.push({ name: `memory added ${place}`, startPhys, endPhys, provenance: 'derived' });
  }
  return out;
}

/** Could there be a ZONE_MOVABLE from boot on? Not known counts as yes. */
function bootMakesMovable(twin: Twin): boolean {
  const text = twin.capture.tree.readText('/proc/cmdline');
  const cmdline = text === undefined ? undefined : parseCmdline(text);
  if (cmdline?.ok !== true) return true;
  const { value } = cmdline;
  return ['kernelcore', 'movablecore', 'movable_node'].some((word) => cmdlineValue(value, word) !== undefined);
}
