// A compile job: what one compiler run does to memory, after the workload model of spec 8.2.
//
//   what                          pages                          class               lives until
//   heap of the process           3000-8000, single frames       anonymous           the job ends
//   its page tables               30-60                          pagetable           the job ends
//   its kernel stack              one of order 2                 stack               the job ends
//   sources and objects           as many as the heap, order 0-4 file                reclaim
//   inodes, dentries              2-6 % of those, order 0-3      slab-reclaimable    reclaim, four of five
//   what stays                    0.5-1 %, order 0-2             slab, vmalloc       the machine is switched off
//
// The allocations of one job are interleaved, as a process's are: a page of kernel memory comes between pages of its heap.

import type { Prng } from '#base/prng';
import type { HolderId, Pfn } from '#base/units';
import type { Machine, PageClass } from '#mm/index';

/** Frames that are given back in the order in which they came: the page cache, and what hangs on it. */
export type Cache = { readonly pages: Pfn[]; next: number };

export type Land = {
  readonly m: Machine;
  readonly prng: Prng;
  /** One holder for each use: all jobs' long-lived memory has the kernel's name, not theirs. */
  readonly uses: ReadonlyMap<Use, HolderId>;
  /** Page cache in the order of its age. */
  readonly cache: Cache;
  /** Reclaimable slab, by age. */
  readonly slab: Cache;
  /** Takes memory; makes room by reclaim when there is none. -1 only when nothing can be reclaimed. */
  take(holder: HolderId, order: number): Pfn | -1;
};

export const USES = {
  'page cache': 'file',
  'inodes and dentries': 'slab-reclaimable',
  'kmalloc, long-lived': 'slab',
  'modules and vmalloc': 'vmalloc',
} as const satisfies Readonly<Record<string, PageClass>>;
export type Use = keyof typeof USES;

/** A process that runs. */
export type Job = { readonly heap: HolderId; readonly tables: HolderId; readonly stack: HolderId };

const use = (land: Land, name: Use): HolderId => land.uses.get(name) as HolderId; // all of USES are there

/**
 * Starts a job and gives it all its memory. `share` scales its heap: 1 is the model's.
 * Cost O(its pages), some 10^4 allocations.
 */
export function startJob(land: Land, name: string, share: number): Job {
  const { m, prng } = land;
  const job: Job = {
    heap: m.addHolder({ class: 'anonymous', name }),
    tables: m.addHolder({ class: 'pagetable', name }),
    stack: m.addHolder({ class: 'stack', name }),
  };
  land.take(job.stack, 2);
  const heap = Math.floor((3000 + prng.below(5001)) * share);
  const tables = 30 + prng.below(31);
  const tableEach = Math.max(1, Math.floor(heap / tables));
  const slabShare = 0.02 + prng.below(1000) / 25_000;
  const stayShare = 0.005 + prng.below(1000) / 200_000;
  let slabOwed = 0;
  let stayOwed = 0;
  let cacheOwed = 0;
  for (let k = 0; k < heap; k++) {
    land.take(job.heap, 0);
    if (k % tableEach === 0) land.take(job.tables, 0);
    cacheOwed += 1;
    slabOwed += slabShare;
    stayOwed += stayShare;
    if (cacheOwed >= 16) {
      const order = prng.pick([0, 0, 2, 3, 4]);
      cacheOwed -= 1 << order;
      const folio = land.take(use(land, 'page cache'), order);
      if (folio >= 0) land.cache.pages.push(folio as Pfn);
    }
    if (slabOwed >= 4) {
      const order = prng.below(4);
      slabOwed -= 1 << order;
      const slab = land.take(use(land, 'inodes and dentries'), order);
      // One object in use keeps its slab: one in five is still there after reclaim.
      if (slab >= 0 && !prng.chance(0.2)) land.slab.pages.push(slab as Pfn);
    }
    if (stayOwed >= 1) {
      const order = prng.below(3);
      stayOwed -= 1 << order;
      land.take(use(land, prng.chance(0.7) ? 'kmalloc, long-lived' : 'modules and vmalloc'), order);
    }
  }
  return job;
}

/** The process ends: its heap, page tables and stack are free. The caches and what stays remain. */
export function endJob(m: Machine, job: Job): void {
  for (const holder of [job.heap, job.tables, job.stack]) freeAll(m, holder);
}

/** Gives back all that a holder has. Cost O(its allocations). */
export function freeAll(m: Machine, holder: HolderId): void {
  const heads: Pfn[] = [];
  m.forEachFrameOf(holder, (head) => heads.push(head));
  for (const head of heads) m.free(head);
}
