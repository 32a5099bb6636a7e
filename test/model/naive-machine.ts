// NaiveMachine: who has which frame, as anyone would write it first. One map entry a used frame, nothing clever.
//
//   uses       every allocation, found by its holder and index      frames   block -> who has each of its frames
//   zones      pageblock -> "node/zone" while it is online           byBlock  the allocations that lie in a block
//   tallies    frames, used and unmanaged ones, by zone              going    blocks that an offline works on
//
// The engine decides *where* an allocation lands; the model says what may not happen: two owners for a frame, a frame of
// an offline block, a pinned or kernel page that moved, contents that changed hands, counters that do not add up. After
// an offline it asks the engine where each allocation of the block went and checks each move.

import type { HolderId, Pfn } from '#base/units';
import { toPfn } from '#base/units';
import { PAGEBLOCK_PAGES } from '#mm/geometry';
import type { Machine } from '#mm/machine';
import { CLASS_TRAITS, type PageClass, ZONE_MOVABLE, ZONE_NAMES, type ZoneIndex } from '#mm/page-class';

export type Use = {
  readonly holder: HolderId;
  readonly index: number;
  readonly class: PageClass;
  head: number;
  readonly order: number;
  pinned: boolean;
  /** Written into the first frame's bytes; undefined where the frame's contents are not known (a split's inner parts). */
  readonly stamp: number | undefined;
};

export type ModelRange = {
  readonly start: number;
  readonly end: number;
  readonly node: number;
  readonly zone: ZoneIndex;
};

type Tally = { frames: number; used: number; unmanaged: number };

/** One number for holder and index: a machine of 2^31 frames has no index above that. */
const key = (holder: number, index: number): number => holder * 2 ** 31 + index;

export class NaiveMachine {
  readonly blockPages: number;
  readonly nodes = new Map<number, number>();
  readonly zones = new Map<number, string>();
  readonly uses = new Map<number, Use>();
  readonly frames = new Map<number, (Use | undefined)[]>();
  readonly byBlock = new Map<number, Set<Use>>();
  /** The same allocations in no order, to pick one at random. */
  readonly list: Use[] = [];
  readonly #place = new Map<Use, number>();
  readonly tallies = new Map<string, Tally>();
  readonly going = new Set<number>();

  constructor(blockPages: number, ranges: readonly ModelRange[]) {
    this.blockPages = blockPages;
    for (const r of ranges) {
      for (let pfn = r.start; pfn < r.end; pfn += PAGEBLOCK_PAGES) {
        this.nodes.set(Math.floor(pfn / blockPages), r.node);
        this.#setZone(pfn, `${r.node}/${r.zone}`);
      }
    }
  }

  clone(): NaiveMachine {
    const copy = new NaiveMachine(this.blockPages, []);
    for (const [b, n] of this.nodes) copy.nodes.set(b, n);
    for (const [p, z] of this.zones) copy.zones.set(p, z);
    for (const [z, t] of this.tallies) copy.tallies.set(z, { ...t, used: 0, unmanaged: 0 });
    for (const u of this.uses.values()) copy.add({ ...u });
    return copy;
  }

  #tally(zone: string): Tally {
    let t = this.tallies.get(zone);
    if (t === undefined) this.tallies.set(zone, (t = { frames: 0, used: 0, unmanaged: 0 }));
    return t;
  }

  zoneOf(pfn: number): string | undefined {
    return this.zones.get(Math.floor(pfn / PAGEBLOCK_PAGES));
  }

  #setZone(pfn: number, zone: string | undefined): void {
    const pageblock = Math.floor(pfn / PAGEBLOCK_PAGES);
    const old = this.zones.get(pageblock);
    if (old !== undefined) this.#tally(old).frames -= PAGEBLOCK_PAGES;
    this.zones.delete(pageblock);
    if (zone === undefined) return;
    this.zones.set(pageblock, zone);
    this.#tally(zone).frames += PAGEBLOCK_PAGES;
  }

  #count(u: Use, sign: 1 | -1): void {
    const zone = this.zoneOf(u.head);
    if (zone === undefined) return; // stayed in a block that left
    const t = this.#tally(zone);
    t.used += sign * 2 ** u.order;
    if (!CLASS_TRAITS[u.class].managed) t.unmanaged += sign * 2 ** u.order;
  }

  /** A new allocation. Throws when a frame of it has an owner, or is not online. */
  add(u: Use): void {
    const first = u.head % this.blockPages;
    const owners = this.#ownersOf(u);
    for (let k = first; k < first + 2 ** u.order; k++) {
      const other = owners[k];
      if (other !== undefined) throw new Error(`two owners: ${describe(other)} and ${describe(u)}`);
    }
    owners.fill(u, first, first + 2 ** u.order);
    this.uses.set(key(u.holder, u.index), u);
    this.#blockOf(u).add(u);
    this.#place.set(u, this.list.push(u) - 1);
    this.#count(u, 1);
  }

  remove(u: Use): void {
    const first = u.head % this.blockPages;
    this.#ownersOf(u).fill(undefined, first, first + 2 ** u.order);
    this.uses.delete(key(u.holder, u.index));
    this.#blockOf(u).delete(u);
    const place = this.#place.get(u) as number; // it is in the list: add put it there
    const last = this.list.pop() as Use;
    if (last !== u) {
      this.list[place] = last;
      this.#place.set(last, place);
    }
    this.#place.delete(u);
    this.#count(u, -1);
  }

  #ownersOf(u: Use): (Use | undefined)[] {
    const block = Math.floor(u.head / this.blockPages);
    let owners = this.frames.get(block);
    if (owners === undefined) this.frames.set(block, (owners = new Array(this.blockPages).fill(undefined)));
    return owners;
  }

  /** The allocation that covers a frame. */
  at(pfn: number): Use | undefined {
    return this.frames.get(Math.floor(pfn / this.blockPages))?.[pfn % this.blockPages];
  }

  #blockOf(u: Use): Set<Use> {
    const block = Math.floor(u.head / this.blockPages);
    let set = this.byBlock.get(block);
    if (set === undefined) this.byBlock.set(block, (set = new Set()));
    return set;
  }

  find(holder: number, index: number): Use | undefined {
    return this.uses.get(key(holder, index));
  }

  inBlock(block: number): Use[] {
    return [...(this.byBlock.get(block) ?? [])];
  }

  blockOffline(block: number): boolean {
    return this.zoneOf(block * this.blockPages) === undefined;
  }

  /** Zones that a block lies in. */
  zonesOfBlock(block: number): Set<string> {
    const out = new Set<string>();
    for (let pfn = block * this.blockPages; pfn < (block + 1) * this.blockPages; pfn += PAGEBLOCK_PAGES) {
      const zone = this.zoneOf(pfn);
      if (zone !== undefined) out.add(zone);
    }
    return out;
  }

  setBlockZone(block: number, zone: string | undefined): void {
    const uses = this.inBlock(block);
    for (const u of uses) this.#count(u, -1);
    for (let pfn = block * this.blockPages; pfn < (block + 1) * this.blockPages; pfn += PAGEBLOCK_PAGES) {
      this.#setZone(pfn, zone);
    }
    for (const u of uses) this.#count(u, 1);
  }

  /**
   * Allocations of one holder became single frames. The first part keeps the index; the others' indexes are the engine's
   * to give, and parts may have moved on already: only the ones that carry a stamp are known by their contents.
   */
  split(m: Machine, whole: readonly Use[]): void {
    const [{ holder, class: cls }] = whole;
    for (const u of whole) this.remove(u);
    const stamps = new Set(whole.map((u) => u.stamp));
    let parts = 0;
    m.forEachFrameOf(holder, (head, order, index) => {
      if (order > 0 || this.find(holder, index) !== undefined) return;
      parts++;
      const stamp = stampOf(m, head);
      const known = stamps.delete(stamp);
      this.add({ holder, class: cls, index, head, order: 0, pinned: false, stamp: known ? stamp : undefined });
    });
    const expected = whole.reduce((n, u) => n + 2 ** u.order, 0);
    if (parts !== expected) throw new Error(`${describe(whole[0])}: split into ${parts} parts, not ${expected}`);
    stamps.delete(undefined);
    if (stamps.size > 0) throw new Error(`${describe(whole[0])}: contents ${[...stamps]} are in none of the parts`);
  }

  /**
   * Asks the engine where the allocations of a block are now. Throws when one of them moved that may not, or to where it
   * may not, or lost its contents.
   */
  follow(m: Machine, block: number): void {
    const here = this.inBlock(block);
    const moves: { u: Use; to: number }[] = [];
    const splits: Use[] = [];
    for (const u of here) {
      // Still there? The frame knows at once; the holder's index is looked for only when it is not.
      const at = m.sections.indexOf(toPfn(u.head));
      const owner = m.sections.ownerAt(at);
      const stayed = owner >= 0 && m.holders.holderOf(owner) === u.holder && m.holders.indexOf(owner) === u.index;
      if (stayed && m.sections.allocationAt(at)?.order === u.order) continue;
      const slot = m.holders.slotAt(u.holder, u.index);
      const frame = slot < 0 ? -1 : m.holders.frameAt(slot);
      const order = frame < 0 ? -1 : m.sections.allocationAt(frame)?.order;
      if (order !== u.order) {
        splits.push(u); // its first part has its index now
        continue;
      }
      const to = m.sections.pfnOf(frame);
      if (to !== u.head) moves.push({ u, to });
    }
    for (const { u } of moves) this.remove(u); // all away first: one may take another's place
    for (const { u, to } of moves) {
      this.#mayMove(m, u, to);
      this.add({ ...u, head: to });
    }
    for (const u of splits) {
      if (u.pinned || u.class === 'hugetlb' || u.order === 0) throw new Error(`${describe(u)} was split`);
      this.#mayMove(m, u, undefined);
    }
    for (const holder of new Set(splits.map((u) => u.holder))) {
      this.split(
        m,
        splits.filter((u) => u.holder === holder),
      );
    }
  }

  #mayMove(m: Machine, u: Use, to: number | undefined): void {
    const { mobility } = CLASS_TRAITS[u.class];
    if (mobility !== 'lru' && mobility !== 'driver') throw new Error(`${describe(u)} moved: its class does not`);
    if (u.pinned) throw new Error(`${describe(u)} moved: it is pinned`);
    if (to === undefined) return;
    const from = this.zoneOf(u.head);
    const zone = this.zoneOf(to);
    if (from === undefined || zone === undefined) throw new Error(`${describe(u)} moved to ${to}, from or to offline`);
    const [fromNode, fromZone] = from.split('/').map(Number);
    const [node, toZone] = zone.split('/').map(Number);
    if (fromZone !== ZONE_MOVABLE && toZone === ZONE_MOVABLE) throw new Error(`${describe(u)} moved into Movable`);
    const others = [...this.tallies].some(([z, t]) => Number(z.split('/')[0]) !== fromNode && t.frames > t.unmanaged);
    if (node === fromNode && others) throw new Error(`${describe(u)} stayed on its node, others have memory`);
    if (u.stamp !== undefined && stampOf(m, to) !== u.stamp) throw new Error(`${describe(u)} lost its contents`);
  }

  /** Counters of every pool, in words; empty when the engine says the same. Cost O(pools). */
  counterDifferences(m: Machine): string[] {
    const wrong: string[] = [];
    for (const p of m.pools) {
      const t = this.tallies.get(`${p.node}/${p.zone}`) ?? { frames: 0, used: 0, unmanaged: 0 };
      const free = p.alloc.nrFree() + p.alloc.nrIsolated() + p.alloc.pcpPages();
      if (p.present !== t.frames) wrong.push(`${p.title}: present ${p.present}, model ${t.frames}`);
      if (p.managed !== t.frames - t.unmanaged) {
        wrong.push(`${p.title}: managed ${p.managed}, model ${t.frames - t.unmanaged}`);
      }
      if (free !== t.frames - t.used) wrong.push(`${p.title}: ${free} free, model ${t.frames - t.used}`);
    }
    return wrong;
  }

  /** Every allocation and every block, and the bytes, too; empty when the engine says the same. */
  differences(m: Machine, contents: 'and contents' | 'no contents'): string[] {
    const wrong = this.counterDifferences(m);
    for (const u of this.uses.values()) {
      for (const w of this.useDifferences(m, u)) wrong.push(w);
      if (contents === 'and contents' && u.stamp !== undefined && stampOf(m, u.head) !== u.stamp) {
        wrong.push(`${describe(u)}: contents differ`);
      }
    }
    let said = 0;
    for (let h = 0; h < m.holders.length; h++) {
      said += m.holders.members[h];
      if (contents === 'no contents') continue;
      m.holders.forEachMember(h, (frame, index) => {
        const u = this.find(h, index);
        if (u?.head !== m.sections.pfnOf(frame)) wrong.push(`holder ${h} index ${index}: ${frame}, model ${u?.head}`);
      });
    }
    if (said !== this.uses.size) wrong.push(`${said} allocations, model ${this.uses.size}`);
    for (const id of m.blockIds()) {
      const state = this.blockOffline(id) ? 'offline' : this.going.has(id) ? 'going-offline' : 'online';
      if (m.block(id)?.state !== state) wrong.push(`block ${id} is ${m.block(id)?.state}, model ${state}`);
    }
    return wrong;
  }

  /** One allocation: its first and last frame. */
  useDifferences(m: Machine, u: Use): string[] {
    const wrong: string[] = [];
    const zone = this.zoneOf(u.head);
    for (let pfn = u.head; pfn < u.head + 2 ** u.order; pfn += Math.max(1, 2 ** u.order - 1)) {
      const f = m.frame(toPfn(pfn));
      if (zone === undefined) {
        if (f.state !== 'offline') wrong.push(`${describe(u)}: ${f.state}, model offline`);
        continue;
      }
      const same =
        f.state === 'used' &&
        f.holder === u.holder &&
        f.index === u.index &&
        f.head === u.head &&
        f.order === u.order &&
        f.pinned === u.pinned &&
        `${f.pool.node}/${f.pool.zone}` === zone;
      if (!same) wrong.push(`${describe(u)}: frame ${pfn} says ${shown(f)}, zone ${zone}`);
    }
    return wrong;
  }
}

const shown = (f: ReturnType<Machine['frame']>): string =>
  f.state === 'used' ? `used ${f.holder}/${f.index} ${f.head}+${f.order} ${f.pool.title}` : f.state;

export const describe = (u: Use): string =>
  `${u.class} ${u.holder}/${u.index} at ${u.head} order ${u.order}${u.pinned ? ' pinned' : ''}`;

/** "node/zone" -> "Node 1, zone Movable". */
export const zoneTitle = (zone: string): string => {
  const [node, z] = zone.split('/').map(Number);
  return `Node ${node}, zone ${ZONE_NAMES[z]}`;
};

/** Contents: a number in the first four bytes of a frame. Needs contents: 'bytes'. */
export function writeStamp(m: Machine, pfn: Pfn, stamp: number): void {
  m.write(pfn, 0, new Uint8Array(Int32Array.of(stamp).buffer));
}

export function stampOf(m: Machine, pfn: number): number {
  const slot = m.sections.indexOf(toPfn(pfn));
  if (m.sections.allocationAt(slot) === undefined) return -1;
  const bytes = m.read(toPfn(pfn));
  return new DataView(bytes.buffer).getInt32(0, true);
}
