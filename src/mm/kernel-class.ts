// Kernel classes: how a page of kernel memory can be moved while its virtual address stays (spec 9.C).
//
//   class   what it is                                              how it moves
//   K       slab, kmalloc, stacks, text and data, per-CPU           its address in the direct map, and every alias, is mapped anew
//   V       vmalloc, modules, stacks in vmalloc space               one entry of the vmalloc area is rewritten
//   T       page tables, of the kernel, of processes, of an IOMMU   the entry of its parent is rewritten; a root: every CPU's register
//   H       pages whose physical address the host was told          told anew: unregister, move, register
//   D       targets of DMA                                          the IOMMU switches, or the driver gives them up (9.E)
//   M       struct pages                                            the virtual memmap is mapped anew (9.D)
//   X       firmware tables, crash kernel, trampolines              never: hard-pinned
//
// A holder may say its class; else it follows from its page class. Memory of which nobody knows what it is has none: it
// refuses by default (Hansen 2004: "the default being for things that either refuse to be moved, or don't know if they
// can be"). Reserved memory is X unless its holder says better: the kernel image is K with two aliases.

import type { HolderSpec } from './holder.ts';
import type { PageClass } from './page-class.ts';

export const KERNEL_CLASSES = ['K', 'V', 'T', 'H', 'D', 'M', 'X'] as const;
export type KernelClass = (typeof KERNEL_CLASSES)[number];

const BY_PAGE_CLASS: Readonly<Partial<Record<PageClass, KernelClass>>> = Object.freeze({
  slab: 'K',
  'slab-reclaimable': 'K',
  stack: 'K',
  vmalloc: 'V',
  pagetable: 'T',
  driver: 'D',
  memmap: 'M',
  reserved: 'X',
});

/** Undefined: not the kernel's, or of unknown use. Cost O(1). */
export const kernelClassOf = (spec: HolderSpec): KernelClass | undefined => spec.kernel ?? BY_PAGE_CLASS[spec.class];
