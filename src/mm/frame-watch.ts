// FrameWatch: who is told of every change of a frame's use, owner or pin. One listener a machine; frames are PageIndex.
//
//   occupied   2^order frames from `index` on are in use, by `holder`
//   vacated    they are in nobody's hands any more
//   moved      an allocation's contents and identity went from `from` to `to`
//   owned      [start, end) changed its pool, or came or went with its memory block
//   marked     the allocation at `head` was pinned or unpinned, or its user said something else of it (page-state.ts)
//
// A listener reads the machine's tables and changes none. It is called after the tables say so.

import type { Machine } from './machine.ts';

export interface FrameWatch {
  occupied(index: number, order: number, holder: number): void;
  vacated(index: number, order: number, holder: number): void;
  moved(from: number, to: number, order: number, holder: number): void;
  owned(start: number, end: number): void;
  marked(head: number): void;
}

/**
 * Told of allocations whose head says that it is displaced, and of no others, before the tables say so: kremap/ keeps
 * virtual addresses by it.
 */
export interface DisplacedTable {
  /** It is freed, or forgotten with its memory. */
  vacated(index: number, order: number): void;
  moved(from: number, to: number, order: number): void;
  /** An equal, independent table for a machine that becomes equal to this one's. */
  copy(to: Machine): DisplacedTable;
}
