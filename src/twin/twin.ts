// Twin: a Machine built from a capture, with the evidence it was built from and how well it agrees with the files.
//
// Two levels. `pages`: /proc/kpageflags was there, every frame has a place. `counters`: it was not (no root); zones and
// blocks are known, frames are not, and every verdict says so.

import type { Capture, CaptureProblem } from '#capture/capture';
import type { MemoryBlock } from '#kernfs/memory-blocks';
import type { Pagetypeinfo } from '#kernfs/pagetypeinfo';
import type { ZoneinfoZone } from '#kernfs/zoneinfo';
import type { BlockId, Machine } from '#mm/index';
import type { PinRun } from './place-frames.ts';
import type { Comparison } from './provenance.ts';

/** What page flags say of one memory block, beyond what the engine needs to know. Pages. */
export type BlockEvidence = {
  /** Frames without any flag: on per-CPU lists, or kernel memory that shows none. */
  readonly unflagged: number;
  /** Of those, in pageblocks that consist of nothing else (kernel zones only): memmap or another large allocation. */
  readonly unflaggedWhole: number;
  /** Frames whose struct page is not initialised yet. */
  readonly deferred: number;
  /** Frames in long runs that look held by a user's pin (classify.ts). */
  readonly userPins: number;
  /** Page-cache frames of a block device that look held by their file system. */
  readonly devicePins: number;
  /** Clean, unmapped page cache: gone after `echo 1 > /proc/sys/vm/drop_caches`. */
  readonly droppable: number;
  /** A 1 GiB huge page ends in this block. */
  readonly giganticTail: boolean;
  /** Where the pins of `userPins` and `devicePins` are; ascending within each sign. */
  readonly pinRuns: readonly PinRun[];
};

export type TwinBase = {
  readonly capture: Capture;
  /** "6.1.0-56-amd64", or "unknown". */
  readonly kernel: string;
  readonly blockPages: number;
  /** As the kernel lists them, by id. */
  readonly blocks: readonly MemoryBlock[];
  readonly zones: readonly ZoneinfoZone[];
  readonly pagetypes: Pagetypeinfo | undefined;
  /** Everything that was lost on the way; the capture's own first. */
  readonly problems: readonly CaptureProblem[];
};

export type PagesTwin = TwinBase & {
  readonly level: 'pages';
  readonly machine: Machine;
  readonly comparisons: readonly Comparison[];
  readonly evidence: ReadonlyMap<BlockId, BlockEvidence>;
  /** Pages that FOLL_PIN holds somewhere, by vmstat; undefined where the kernel does not count them. */
  readonly pinnedSomewhere: number | undefined;
};

export type CountersTwin = TwinBase & { readonly level: 'counters' };

export type Twin = PagesTwin | CountersTwin;

/** Why no twin could be built: one sentence. */
export type TwinRefusal = {
  readonly reason: 'no-memory-blocks' | 'no-zones' | 'unreadable' | 'unsupported';
  readonly message: string;
};
