// Kernel classes on a twin: what is known of the reserved frames of a real machine beyond "reserved at boot".
//
//   frame                                         kernel class    by                                   provenance
//   Kernel code, rodata, data, bss                K, two aliases  /proc/iomem                          measured
//   Crash kernel                                  X               /proc/iomem                          measured
//   below 1 MiB                                   X               trampolines of the boot CPUs lie there   assumed
//   frames the kernel has no page for             X               /proc/kpageflags                     measured
//   whole pageblocks of what is left              M               the memory map comes in leaves of 2 MiB, and little else
//                                                                 does                                 assumed
//   all else that is reserved                     K               memblock leftovers: page tables, hash tables, per-CPU areas.
//                                                                 Firmware's own memory is not System RAM, so that it is not
//                                                                 among them                           assumed
//
// A copy of the twin's machine gets holders that say so; contents, places and all other holders are the twin's. Addresses
// that were hidden (a reader without privileges) leave everything reserved hard-pinned: nothing is claimed.
//
// Spec 9.C, the table of classes.

import { iomemHidden, parseIomem } from '#kernfs/iomem';
import { type HolderId, type Machine, PAGE_SIZE, PAGEBLOCK_ORDER, type Pfn } from '#mm/index';
import type { KernelClass } from '#mm/kernel-class';
import type { PagesTwin } from '#twin/index';

/** 1 MiB: what 16-bit code can reach. */
const LOW_MEMORY_PFN = 2 ** 20 / PAGE_SIZE;

type Known = { readonly name: string; readonly kernel: KernelClass };

const IMAGE: Known = { name: 'kernel image', kernel: 'K' };
const CRASH: Known = { name: 'crash kernel', kernel: 'X' };
const LOW: Known = { name: 'low memory (trampolines, firmware)', kernel: 'X' };
const MEMMAP: Known = { name: 'memory map of boot memory (whole pageblocks given out at boot)', kernel: 'M' };
const BOOT: Known = { name: 'memory given out at boot (page tables, hash tables, per-CPU areas)', kernel: 'K' };

const IMAGE_NAMES = /^Kernel (code|rodata|data|bss)$/;

/** A fork of the twin's machine in which reserved frames have the holders of the table. Cost O(reserved allocations). */
export function classified(twin: PagesTwin): Machine {
  const m = twin.machine.fork();
  const iomem = parseIomem(twin.capture.tree.readText('/proc/iomem') ?? '');
  if (!iomem.ok || iomem.value.length === 0 || iomemHidden(iomem.value)) return m;
  const ranges = (is: (name: string) => boolean): { start: number; end: number }[] =>
    iomem.value
      .filter((e) => is(e.name))
      .map((e) => ({ start: Math.floor(e.startPhys / PAGE_SIZE), end: Math.ceil(e.endPhys / PAGE_SIZE) }));
  const image = ranges((name) => IMAGE_NAMES.test(name));
  const crash = ranges((name) => name === 'Crash kernel');
  const within = (pfn: number, all: readonly { start: number; end: number }[]): boolean =>
    all.some((r) => r.start <= pfn && pfn < r.end);
  const knownOf = (pfn: Pfn, order: number): Known => {
    if (pfn < LOW_MEMORY_PFN) return LOW;
    if (within(pfn, crash)) return CRASH;
    if (within(pfn, image)) return IMAGE;
    return order >= PAGEBLOCK_ORDER ? MEMMAP : BOOT;
  };

  const ids = new Map<Known, HolderId>();
  const holderOf = (known: Known): HolderId => {
    let id = ids.get(known);
    if (id === undefined) ids.set(known, (id = m.addHolder({ class: 'reserved', ...known })));
    return id;
  };
  const specs = m.holders.specs.slice();
  specs.forEach((spec, h) => {
    if (spec.class !== 'reserved' || spec.kernel !== undefined || !spec.name.startsWith(RESERVED_AT_BOOT)) return;
    const found: { index: number; order: number; known: Known }[] = [];
    m.holders.forEachMember(h, (index) => {
      const order = m.sections.allocationAt(index)?.order ?? 0; // a member is a head
      found.push({ index, order, known: knownOf(m.sections.pfnOf(index), order) });
    });
    for (const { index, order, known } of found) {
      m.unhold(index, order);
      m.occupy(holderOf(known), index, order);
    }
  });
  return m;
}

/** As twin/place-frames.ts names them. */
const RESERVED_AT_BOOT = 'reserved at boot';
