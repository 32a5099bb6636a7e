// A box of DIMMs: memory that can be pulled out slot by slot, as a person sees it who has a faulty one.
//
//   address   0        2 GiB   4 GiB                10 GiB              18 GiB
//             │ DIMM 0  │ hole  │ rest of DIMM 0      │ DIMM 1             │ DIMM 2 ...
//             └ firmware, kernel image               └ hot-added, online_kernel: Normal, as boot memory is
//               boot memmap, crash kernel: class X
//
// DIMM 0 is what the machine booted with. Firmware keeps a hole below 4 GiB, so that it has two ranges when it is larger
// than 2 GiB. The others are plugged one by one, and their struct pages lie in memory that was there before (memmap policy
// `kernel`, Linux's default), which is what makes DIMMs depend on each other.
//
// Sources: spec 1.2 (blocks of 128 MiB in a guest), 1.4 (zones), 4.3 (where the memmap comes from).

import { assert } from '#base/assert';
import { toNodeId, toPfn } from '#base/units';
import { Machine, type MemoryRange, PAGE_SIZE, type ReservedRange } from '#mm/index';

const MIB = 2 ** 20 / PAGE_SIZE;
const GIB = 2 ** 30 / PAGE_SIZE;
const HOLE = { start: 2 * GIB, end: 4 * GIB };
/** 64 bytes for each frame. */
const MEMMAP_SHARE = 64;

export const BOX_NODE = toNodeId(0);

export type BoxSpec = {
  /** Of all DIMMs together; a whole number of memory blocks each. */
  readonly bytes: number;
  readonly dimms: number;
};

export type Dimm = {
  /** "DIMM 0". */
  readonly name: string;
  readonly ranges: readonly MemoryRange[];
  readonly pages: number;
};

export type DimmBox = {
  readonly m: Machine;
  /** Those that are plugged, in order. */
  readonly dimms: readonly Dimm[];
};

/** Frames of each DIMM. A spec that is not whole memory blocks of 128 MiB throws. */
function dimmPages({ bytes, dimms }: BoxSpec): number {
  const pages = bytes / dimms / PAGE_SIZE;
  assert(Number.isInteger(pages / (128 * MIB)) && dimms >= 2, 'DIMMs are whole blocks of 128 MiB, two at least', {
    bytes,
    dimms,
  });
  return pages;
}

/** What never moves: firmware's, the kernel's image, its first memmap, and the crash kernel below 4 GiB. */
function hardPinned(pages: number, low: number): ReservedRange[] {
  const memmap = pages / MEMMAP_SHARE;
  const end = pages > low ? HOLE.end + pages - low : low; // memblock hands out from the top
  const crash = Math.min(256 * MIB, pages / 32);
  const range = (name: string, start: number, size: number): ReservedRange => ({
    name,
    start: toPfn(start),
    end: toPfn(start + size),
  });
  return [
    range('firmware', 0, MIB),
    range('kernel image', 16 * MIB, 48 * MIB),
    range('crash kernel', low - crash - (pages > low ? 0 : memmap), crash),
    range('boot memmap', end - memmap, memmap),
  ];
}

/** Switches the machine on with its first DIMM. */
export function bootBox(spec: BoxSpec): DimmBox {
  const pages = dimmPages(spec);
  const low = Math.min(pages, HOLE.start);
  const ranges: MemoryRange[] = [{ start: toPfn(0), end: toPfn(low) }];
  if (pages > low) ranges.push({ start: toPfn(HOLE.end), end: toPfn(HOLE.end + pages - low) });
  const m = Machine.boot({
    compat: 'linux',
    placement: 'lifo',
    ram: ranges.map((r) => ({ ...r, node: BOX_NODE })),
    reserved: hardPinned(pages, low),
    hotplug: { autoOnline: 'online_kernel', memmapOnMemory: 'N' },
    watermarks: { scaleFactor: 10, thp: true },
  });
  return { m, dimms: [{ name: 'DIMM 0', ranges, pages }] };
}

/** Plugs one more DIMM: it is added behind the last and comes online in Normal. Only an empty machine has no room for it. */
export function plug(box: DimmBox, spec: BoxSpec): DimmBox {
  const { m, dimms } = box;
  const pages = dimmPages(spec);
  const last = dimms[dimms.length - 1].ranges.at(-1) as MemoryRange; // a DIMM has one range at least
  const start = Math.max(last.end, HOLE.end);
  const range = { start: toPfn(start), end: toPfn(start + pages) };
  const added = m.addMemory(range, BOX_NODE, { memmap: 'kernel' });
  assert(added.ok, 'there is room for the struct pages', { refusal: added.ok ? undefined : added.error.message });
  assert(added.value.onlined.length === added.value.blocks.length, 'all of it is online', added.value);
  return { m, dimms: [...dimms, { name: `DIMM ${dimms.length}`, ranges: [range], pages }] };
}

/** Is this frame of the DIMM? */
export const holds = (dimm: Dimm, pfn: number): boolean => dimm.ranges.some((r) => pfn >= r.start && pfn < r.end);

/** Free frames that are on no list of a CPU, of all zones. */
export const freePages = (m: Machine): number => m.zones.reduce((n, p) => n + p.alloc.nrFree(), 0);
export const managedPages = (m: Machine): number => m.zones.reduce((n, p) => n + p.managed, 0);
