// Fill and delete: the load of compaction's test A (Gorman 2010), as far as the allocator sees it (spec 8.2, H6).
//
//   processes      p0: file 0, file 1 ...    p1: file 0, file 1 ...    each one file after another
//   running        a few of them at a time; every turn one that chance picks writes a few pages
//   until          memory is full; then every other file of each process is deleted
//
// What is left of a deleted file is what the pages' places make of it: a process's pages lie between those of all that ran
// beside it.

import { assert } from '#base/assert';
import type { Prng } from '#base/prng';
import { type HolderId, toOrder } from '#base/units';
import { MAX_ORDER, NR_MIGRATE_TYPES, NR_ORDERS, PAGEBLOCK_ORDER } from '../geometry.ts';
import type { Machine } from '../machine.ts';
import { allocMapped, closeMapped, mappedTails, truncateMapped } from '../mapping-pool.ts';

/** How the files get their pages: one by one, from pools that learn each file's length as it grows, or are told it. */
export type FillHow = 'plain' | 'pool' | 'pool-told';

export type FillOptions = {
  readonly how: FillHow;
  readonly prng: Prng;
  /** Pages of a file. */
  readonly filePages: number;
  /** Processes that write at one time. */
  readonly running: number;
  readonly filesPerProcess: number;
  /** The longest write, in pages. */
  readonly longestWrite: number;
};

export type FillReport = {
  /** In order of creation, and the number of each among its process's. */
  readonly files: readonly WrittenFile[];
  /** Pages of files when memory was full. */
  readonly filePages: number;
  /** The most that was reserved beyond the files at any time, and when memory was full. */
  readonly mostTails: number;
  readonly tails: number;
};

export type WrittenFile = { readonly file: HolderId; readonly n: number };

/** Fills memory with files until a page is refused. Files that were not finished then are closed as they are. */
export function fillFiles(m: Machine, options: FillOptions): FillReport {
  const { how, prng, filePages } = options;
  const files: WrittenFile[] = [];
  const begin = (process: number, n: number): Writer => {
    const file = m.addHolder({ class: 'file', name: `p${process}/file${n}`, mapped: false });
    files.push({ file, n });
    return { process, n, file, left: filePages };
  };
  let processes = 0;
  const running = Array.from({ length: options.running }, () => begin(processes++, 0));
  let pages = 0;
  let mostTails = 0;
  for (let full = false; !full; ) {
    const k = prng.below(running.length);
    const w = running[k] as Writer;
    for (let n = 1 + prng.below(Math.min(w.left, options.longestWrite)); n > 0 && !full; n--) {
      full = want(m, how, w) < 0;
      if (full) break;
      w.left--;
      pages++;
    }
    if ((pages & 63) < 8) mostTails = Math.max(mostTails, mappedTails(m)); // often enough: a turn takes a chunk at most
    if (w.left > 0 || full) continue;
    if (how !== 'plain') closeMapped(m, w.file);
    running[k] = w.n + 1 < options.filesPerProcess ? begin(w.process, w.n + 1) : begin(processes++, 0);
  }
  const tails = mappedTails(m);
  for (const w of running) if (how !== 'plain') closeMapped(m, w.file);
  return { files, filePages: pages, mostTails, tails };
}

type Writer = { readonly process: number; readonly n: number; readonly file: HolderId; left: number };

function want(m: Machine, how: FillHow, w: Writer): number {
  if (how === 'plain') return m.alloc(w.file, toOrder(0));
  return allocMapped(m, w.file, how === 'pool-told' ? w.left : undefined);
}

/** Every process deletes every second one of its files. */
export function deleteEveryOther(m: Machine, how: FillHow, files: readonly WrittenFile[]): void {
  for (const { file, n } of files) {
    if (n % 2 === 0) continue;
    if (how !== 'plain') truncateMapped(m, file);
    else m.forEachFrameOf(file, (pfn) => m.free(pfn));
  }
}

/** The part of all free pages, from 0 to 1, that is in free blocks of `order` or more. Per-CPU lists are drained first. */
export function freeInOrder(m: Machine, order: number = PAGEBLOCK_ORDER): number {
  assert(order >= 0 && order <= MAX_ORDER, 'no such order', { order });
  let large = 0;
  let all = 0;
  const out = new Float64Array(NR_MIGRATE_TYPES * NR_ORDERS);
  for (const p of m.pools) {
    p.alloc.drain();
    p.alloc.area.count(out.fill(0));
    for (let k = 0; k < out.length; k++) {
      const pages = (out[k] as number) * 2 ** (k % NR_ORDERS);
      all += pages;
      if (k % NR_ORDERS >= order) large += pages;
    }
  }
  return all === 0 ? 0 : large / all;
}
