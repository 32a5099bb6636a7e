// FrameWatch: who is told of every change of a frame's use, owner or pin. One listener a machine; frames are PageIndex.
//
//   occupied   2^order frames from `index` on are in use, by `holder`
//   vacated    they are in nobody's hands any more
//   moved      an allocation's contents and identity went from `from` to `to`
//   owned      [start, end) changed its pool, or came or went with its memory block
//   pinned     the allocation at `head` was pinned or unpinned
//
// A listener reads the machine's tables and changes none. It is called after the tables say so.

export interface FrameWatch {
  occupied(index: number, order: number, holder: number): void;
  vacated(index: number, order: number, holder: number): void;
  moved(from: number, to: number, order: number, holder: number): void;
  owned(start: number, end: number): void;
  pinned(head: number): void;
}
