// Shared machine: frames in a SharedArrayBuffer, pools that threads own, chunks that move between them without a lock.
//
//   const frames = createSharedFrames({ pages: 2 ** 20, pools: 2 });      // in one thread; send frames.buffer
//   const attached = attachPool(openSharedFrames(buffer), { pool: 1 });   // in each worker
//   if (attached.ok) attached.value.alloc(0, MIGRATE_MOVABLE);
//
// shared-frames.ts has the memory and its layout, exclusive-pool.ts what a thread does with it, hand-over.ts how things
// cross between threads and why nothing is lost, locked-pool.ts the pool behind a lock that it is measured by.

export {
  attachPool,
  type ExclusivePool,
  type ExclusivePoolSpec,
  type ExclusivePoolStat,
  type ShareRefusal,
} from './exclusive-pool.ts';
export { type LockedPool, lockedPoolBytes, openLockedPool } from './locked-pool.ts';
export { createSharedFrames, MAX_SHARED_POOLS, openSharedFrames, type SharedFrames } from './shared-frames.ts';
