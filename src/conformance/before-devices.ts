// A snapshot as it would have been before devices were plugged: for recordings whose first snapshot came later than boot.
//
//   the blocks, addresses and zones' frames of the given ranges are taken out of the files; all else stays as it was read
//
//   zone   before   │■■■ boot RAM ■■■│ device │ device │      present and managed shrink by what was online
//          after    │■■■ boot RAM ■■■│                        the span shrinks to the blocks that are left, if it must
//
// A zone that had nothing but devices is empty. Where the span was ragged on purpose (holes of blocks that had gone before)
// this cannot be seen any more: such a recording would show it as wrong.

import type { Capture } from '#capture/capture';
import { parseIomem, printIomem } from '#kernfs/iomem';
import { MEMORY_DIR, type MemoryBlock, readMemoryBlocks } from '#kernfs/memory-blocks';
import type { KernTree } from '#kernfs/source';
import { parseZoneinfo, printZoneinfo, type ZoneinfoZone } from '#kernfs/zoneinfo';

export type PfnSpan = { readonly start: number; readonly end: number };

/** @returns the capture without the ranges, and how many kB of MemTotal went with them, by node */
export function beforeDevices(
  capture: Capture,
  ranges: readonly PfnSpan[],
): { readonly capture: Capture; readonly goneKb: ReadonlyMap<number, number> } {
  const { tree } = capture;
  const memory = readMemoryBlocks(tree);
  if (!memory.ok || ranges.length === 0) return { capture, goneKb: new Map() };
  const blockPages = memory.value.blockSizeBytes / 4096;
  const inside = (id: number): boolean =>
    ranges.some((r) => r.start <= id * blockPages && (id + 1) * blockPages <= r.end);
  const gone = memory.value.blocks.filter((b) => inside(b.id));
  const left = memory.value.blocks.filter((b) => !inside(b.id));
  const texts = new Map<string, string>();
  const goneKb = new Map<number, number>();

  const iomem = parseIomem(tree.readText('/proc/iomem') ?? '');
  if (iomem.ok) {
    // A virtio-mem driver's region stays: it is there before anything is plugged, and its number is the guest's.
    const kept = iomem.value.filter(
      (e) =>
        /^virtio\d+$/.test(e.name) || !ranges.some((r) => r.start * 4096 <= e.startPhys && e.endPhys <= r.end * 4096),
    );
    texts.set('/proc/iomem', printIomem(kept));
  }
  const zones = parseZoneinfo(tree.readText('/proc/zoneinfo') ?? '');
  if (zones.ok) {
    const cut = zones.value.map((z) => without(z, gone, left, blockPages));
    zones.value.forEach((z, k) => {
      const kb = (z.managed - (cut[k] as ZoneinfoZone).managed) * 4;
      goneKb.set(z.node, (goneKb.get(z.node) ?? 0) + kb);
    });
    texts.set('/proc/zoneinfo', printZoneinfo(cut));
  }
  const meminfo = tree.readText('/proc/meminfo');
  if (meminfo !== undefined) {
    // Only the sum is compared: which leaves mapped the devices cannot be told.
    let kb = gone.length * (memory.value.blockSizeBytes / 1024);
    const cut = (text: string, name: string): string =>
      text.replace(
        new RegExp(`^(${name}: +)(\\d+)( kB)$`, 'm'),
        (_all, label: string, digits: string, unit: string) => {
          const less = Math.min(kb, Number(digits));
          kb -= less;
          return `${label}${Number(digits) - less}${unit}`;
        },
      );
    texts.set('/proc/meminfo', ['DirectMap1G', 'DirectMap2M', 'DirectMap4k'].reduce(cut, meminfo));
  }
  const vmstat = tree.readText('/proc/vmstat');
  if (vmstat !== undefined) {
    // 64 bytes a frame, in pages. Memory that hosts its memmap was not counted: then the counter stays at 0.
    const pages = (gone.length * blockPages * 64) / 4096;
    const less = (_all: string, n: string): string => `nr_memmap_pages ${Math.max(0, Number(n) - pages)}`;
    texts.set('/proc/vmstat', vmstat.replace(/^nr_memmap_pages (\d+)$/m, less));
  }
  const names = new Set(gone.map((b) => `memory${b.id}`));
  const hidden = (path: string): boolean => path.split('/').some((part) => names.has(part));
  const view: KernTree = {
    readText: (path) => texts.get(path) ?? (hidden(path) ? undefined : tree.readText(path)),
    list: (path) => (hidden(path) ? [] : tree.list(path).filter((n) => path !== MEMORY_DIR || !names.has(n))),
  };
  return { capture: { ...capture, tree: view }, goneKb };
}

const isIn = (b: MemoryBlock, z: ZoneinfoZone): boolean =>
  b.state !== 'offline' && b.nodes.includes(z.node) && b.validZones?.length === 1 && b.validZones[0] === z.zone;

function without(
  z: ZoneinfoZone,
  gone: readonly MemoryBlock[],
  left: readonly MemoryBlock[],
  blockPages: number,
): ZoneinfoZone {
  const mine = gone.filter((b) => isIn(b, z)).length;
  if (mine === 0) return z;
  const present = z.present - mine * blockPages;
  if (present <= 0) {
    const { startPfn: _start, nodeUnreclaimable: _nodes, ...rest } = z;
    return { ...rest, spanned: 0, present: 0, managed: 0, stats: [], pagesets: [] };
  }
  const start = z.startPfn ?? 0;
  const stays = left.filter((b) => isIn(b, z));
  const low = Math.max(start, Math.min(start, ...stays.map((b) => b.id * blockPages)));
  const high = Math.max(low, ...stays.map((b) => (b.id + 1) * blockPages));
  const end = Math.min(start + z.spanned, high);
  return { ...z, startPfn: low, spanned: end - low, present, managed: z.managed - mine * blockPages };
}
