// What holds the rest: why the pieces that are not free cannot be made free while the machine runs.
//
//   zone, piece by piece of 2^order frames ──> any page that cannot move? ──> group by class and holder: pages, pieces spoiled
//
// One page that stays spoils its whole piece: a group that counts few pages and many pieces is what fragmentation is made of. A
// piece that two groups spoil counts for both. Pieces without such a page are not listed: they are in use, and what is in
// them could move if there were room.
//
// Hansen 2004: "who do we have to beg, or kill"; spec users.md, rows 30 to 32.

import { type Blocker, type BlockerCause, type Machine, type PageClass, toPfn } from '#mm/index';
import { HOLDER_PCP } from '#twin/unflagged';

export type Spoiler = {
  readonly class: PageClass | 'none';
  readonly cause: BlockerCause;
  readonly name: string;
  readonly pages: number;
  /** Pieces of 2^order frames with at least one of these pages. */
  readonly pieces: number;
};

export type Rest = {
  /** The one that spoils most pieces first. */
  readonly groups: readonly Spoiler[];
  /** Pieces with at least one page that stays, of all pieces of all zones. */
  readonly spoiled: number;
  readonly pieces: number;
};

/** Cost O(pages that cannot move). */
export function restOf(m: Machine, order: number): Rest {
  type Draft = { readonly blocker: Blocker; pages: number; readonly pieces: Set<number> };
  const drafts = new Map<string, Draft>();
  const spoiled = new Set<number>();
  const size = 2 ** order;
  let frames = 0;
  for (const id of m.blockIds()) {
    const block = m.block(id);
    if (block === undefined || block.state === 'offline') continue;
    frames += m.blockPages - block.absent;
    for (const b of m.blockersIn(toPfn(block.startPfn), toPfn(block.endPfn))) {
      if (b.name === HOLDER_PCP) continue; // free, but for the list it is on
      const key = `${b.cause} ${b.class} ${b.name}`;
      let d = drafts.get(key);
      if (d === undefined) drafts.set(key, (d = { blocker: b, pages: 0, pieces: new Set() }));
      d.pages += b.endPfn - b.startPfn;
      for (let piece = Math.floor(b.startPfn / size); piece * size < b.endPfn; piece++) {
        d.pieces.add(piece);
        spoiled.add(piece);
      }
    }
  }
  const groups = [...drafts.values()]
    .map(({ blocker, pages, pieces }) => ({
      class: blocker.class,
      cause: blocker.cause,
      name: blocker.name,
      pages,
      pieces: pieces.size,
    }))
    .sort((a, b) => b.pieces - a.pieces || b.pages - a.pages || (a.name < b.name ? -1 : 1));
  return { groups, spoiled: spoiled.size, pieces: Math.floor(frames / size) };
}
