// Helps: what could empty memory beyond what Linux does. Each is one step of Hansen 2005, or of what came after it.
//
//   help         what it does                                                          where it is
//   compaction   makes contiguous room for large pages that would find none            mm/compaction
//   memmap       struct pages move to other memory                                     mm/memmap-evictor.ts
//   drivers      drivers give up their fixed areas when asked                          mm/fixed-areas
//   remap        kernel pages move under constant virtual addresses                    mm/kremap
//
// A plan compares them by adding one after the other, in this order: the cheap ones first.

export const HELPS = ['compaction', 'memmap', 'drivers', 'remap'] as const;
export type Help = (typeof HELPS)[number];
