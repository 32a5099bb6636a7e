// Movers of pages on the LRU, and of huge pages: anonymous, file, shmem, hugetlb. What they ask: mover.ts.
//
// A file system without a migrate callback (HolderSpec.migrateCallback) may know its dirty pages by address, on a queue of
// its own: such a page is written back first, by a caller that may wait (`sync`), and moves when it is clean. The write
// is over by the time the caller tries again, unless somebody says that storage still reads it (Machine.setPageFlags).

import { REQUEST_WRITES_BACK } from '../holder.ts';
import type { Machine } from '../machine.ts';
import { META_DIRTY, META_PINNED, META_WRITEBACK } from '../section.ts';
import type { MigrateMode, Mover, Standstill } from './mover.ts';

const heldBy = (meta: number): Standstill | undefined =>
  (meta & META_PINNED) !== 0 ? 'pinned' : (meta & META_WRITEBACK) !== 0 ? 'writeback' : undefined;

const isolate = (m: Machine, head: number): Standstill | undefined => heldBy(m.sections.metaAt(head));

function isolateFile(m: Machine, head: number, mode: MigrateMode): Standstill | undefined {
  const meta = m.sections.metaAt(head);
  const held = heldBy(meta);
  if (held !== undefined || (meta & META_DIRTY) === 0) return held;
  const holder = m.holders.holderOf(m.sections.ownerAt(head));
  if (((m.holders.request[holder] as number) & REQUEST_WRITES_BACK) === 0) return undefined; // its dirtiness goes along
  return mode === 'sync' ? writeout(m, head) : 'writeback';
}

/** Linux: writeout(), whose success is EAGAIN: what was checked before may have changed meanwhile. */
function writeout(m: Machine, head: number): Standstill {
  if (m.faultAt?.('migrate.writeout') === true) return 'fault'; // EIO: still dirty
  m.setPageFlags(m.sections.pfnOf(head), { dirty: false });
  return 'writeback';
}

const transfer: Mover['transfer'] = (m, from, to, order) => m.relocate(from, to, order);

const HELD = META_PINNED | META_WRITEBACK;

export const ANONYMOUS: Mover = { name: 'anonymous', asks: HELD, splits: true, isolate, transfer };
export const FILE: Mover = { name: 'file', asks: HELD | META_DIRTY, splits: true, isolate: isolateFile, transfer };
export const SHMEM: Mover = { name: 'shmem', asks: HELD, splits: true, isolate, transfer };
export const HUGETLB: Mover = { name: 'hugetlb', asks: HELD, splits: false, isolate, transfer };
