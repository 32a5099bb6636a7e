// Replicas: one page of a file, or of whatever is read by all, with a copy near each CPU. All copies say the same.
//
//   page   node 0   node 1   node 2   node 3
//    0     ▓ slot   ▓ slot   ▓ slot   ▓ slot      everywhere: taken as one set (alloc-set.ts), all copies or none
//    1     -        ▓ slot   -        -           collapsed: one copy, which the others read from afar
//
//   read        the nearest copy, by the distance of nodes; with `replicateAfter: n` the n-th distant read of a page since
//               it was last replicated or written asks for the copies that it lacks, and does without when there is no room
//   write       'update'    goes to every copy: k pages written, none lost
//               'collapse'  leaves one copy, the writer's own if it has one, and goes there: others read it from afar
//   replicate   the copies that are missing, as one set
//   migrate     copies change nodes without swap: all targets are taken first, then contents are copied and sources freed
//   shed        a node gets its memory back: copies go, but never the last one. Nothing is read from storage for it
//
//   column   per          type      meaning
//   slots    page, node   Int32     slot of the copy in the node's holder (holder.ts); -1 none
//   pageOf   holder index Int32     page of the copy, by node; the reverse of `slots`
//   far      page         Uint16    distant reads since it was last replicated or written; stays at 65535
//
// A page is found through its holder's slot, so that a copy that an offline or a compaction moved is found where it lies; it
// counts as local where it lies, too. A copy that somebody else freed (reclaim drops clean cache, memory fails) is a copy
// less: `slots` and `pageOf` do not agree about it any more. Pages are single frames: a large one may be split behind our back.
//
// Invariants: RP1 after every write, replication and migration the copies of a page are equal; RP2 a refusal leaves every
// counter as it was; RP3 a page that is in use has a copy, unless others took the last. Linux has no replication; patches of
// 2007 replicated page cache and collapsed it on a write, as 'collapse' does. After Snook 2007, problem 5 (spec 9.A, 10).

import { assert } from '#base/assert';
import { err, ok, type Result } from '#base/result';
import { type HolderId, type NodeId, type Pfn, toNodeId, toOrder } from '#base/units';
import type { Machine } from '../machine.ts';
import { machineState } from '../machine-state.ts';
import type { PageClass } from '../page-class.ts';
import { type Refusal, refusal } from '../refusal.ts';
import { allocSet, type SetRefusal } from './alloc-set.ts';
import { type Principal, poolNamed, ROOT } from './pool-table.ts';

export type ReplicaSpec = {
  /** For people: "libc.so". */
  readonly name: string;
  /** Where copies may be: nodes by number, or pools whose frames are of one node. The first one is the home. */
  readonly on: readonly (number | string)[];
  readonly onWrite: 'update' | 'collapse';
  /** Default 'file'. */
  readonly class?: PageClass;
  /** 1 to 65535; default: copies are made only when `replicate` is called. */
  readonly replicateAfter?: number;
  /** Of the copies of one page, as in alloc-set.ts. Default 'any'. */
  readonly offset?: 'same' | 'any';
};

/** Number of a replicated object, unique on its machine. */
export type ReplicaId = number;

export type CopyRead = {
  readonly pfn: Pfn;
  /** Where the copy lies, and how far that is from the reader: 10 is local. */
  readonly node: NodeId;
  readonly distance: number;
};

export type CopyWrite = { readonly written: number; readonly dropped: number };

export type CopyMove = { readonly page: number; readonly from: number; readonly to: number };

export type ReplicaStat = {
  readonly name: string;
  readonly nodes: readonly NodeId[];
  readonly pages: number;
  /** Frames in use. */
  readonly copies: number;
  readonly reads: number;
  readonly farReads: number;
  readonly writes: number;
  /** Pages that writes went to. */
  readonly copiesWritten: number;
  /** Copies made of other copies, by replication and migration. */
  readonly copied: number;
  /** Copies given back by collapse and shed. */
  readonly dropped: number;
  /** Times that a read asked for copies and there was no room. */
  readonly refused: number;
};

const NONE = -1;
const MOST_FAR = 65535;
const FRAME = toOrder(0);

type Counters = {
  reads: number;
  farReads: number;
  writes: number;
  copiesWritten: number;
  copied: number;
  dropped: number;
  refused: number;
};

class ReplicaObject {
  readonly name: string;
  readonly on: readonly (number | string)[];
  readonly nodes: readonly NodeId[];
  readonly holders: readonly HolderId[];
  readonly onWrite: ReplicaSpec['onWrite'];
  readonly replicateAfter: number;
  readonly offset: 'same' | 'any';
  readonly as: Principal;
  slots = new Int32Array(0);
  far = new Uint16Array(0);
  inUse = new Uint8Array(0);
  pageOf: Int32Array[];
  /** Pages ever used, and those of them that were removed. */
  length = 0;
  removed: number[] = [];
  n: Counters = { reads: 0, farReads: 0, writes: 0, copiesWritten: 0, copied: 0, dropped: 0, refused: 0 };

  constructor(spec: ReplicaSpec, nodes: readonly NodeId[], holders: readonly HolderId[], as: Principal) {
    this.name = spec.name;
    this.on = spec.on;
    this.nodes = nodes;
    this.holders = holders;
    this.onWrite = spec.onWrite;
    this.replicateAfter = spec.replicateAfter ?? Number.POSITIVE_INFINITY;
    this.offset = spec.offset ?? 'any';
    this.as = as;
    this.pageOf = nodes.map(() => new Int32Array(0));
  }

  copy(): ReplicaObject {
    const { name, on, onWrite, replicateAfter, offset } = this;
    const to = new ReplicaObject({ name, on, onWrite, replicateAfter, offset }, this.nodes, this.holders, this.as);
    to.slots = this.slots.slice();
    to.far = this.far.slice();
    to.inUse = this.inUse.slice();
    to.pageOf = this.pageOf.map((column) => column.slice());
    to.length = this.length;
    to.removed = this.removed.slice();
    to.n = { ...this.n };
    return to;
  }

  newPage(): number {
    const page = this.removed.pop() ?? this.length++;
    if (page >= this.far.length) {
      const rows = Math.max(64, 2 * this.far.length);
      const slots = new Int32Array(rows * this.nodes.length).fill(NONE);
      slots.set(this.slots);
      this.slots = slots;
      const far = new Uint16Array(rows);
      far.set(this.far);
      this.far = far;
      const inUse = new Uint8Array(rows);
      inUse.set(this.inUse);
      this.inUse = inUse;
    }
    this.inUse[page] = 1;
    this.far[page] = 0;
    return page;
  }

  endPage(page: number): void {
    this.inUse[page] = 0;
    this.removed.push(page);
  }

  has(page: number): boolean {
    return Number.isInteger(page) && page >= 0 && page < this.length && this.inUse[page] === 1;
  }

  setCopy(page: number, k: number, slot: number, index: number): void {
    this.slots[page * this.nodes.length + k] = slot;
    let column = this.pageOf[k] as Int32Array;
    if (index >= column.length) {
      const grown = new Int32Array(Math.max(index + 1, 2 * column.length, 64)).fill(NONE);
      grown.set(column);
      this.pageOf[k] = column = grown;
    }
    column[index] = page;
  }
}

class ReplicaState {
  objects: ReplicaObject[] = [];

  copy(): ReplicaState {
    const to = new ReplicaState();
    to.objects = this.objects.map((o) => o.copy());
    return to;
  }
}

const state = machineState(() => new ReplicaState());

const no = (reason: Parameters<typeof refusal>[0], message: string): { ok: false; error: Refusal } =>
  err(refusal(reason, message));

/** The replicated objects of a machine. They follow it into its copies. */
export const replicas = (m: Machine): Replicas => new Replicas(m);

/** RP1 and RP3, in words; empty when sound. Cost O(copies), and 4 KiB each with contents 'bytes'. */
export const checkReplicas = (m: Machine): string[] => (state.has(m) === undefined ? [] : new Replicas(m).check());

export class Replicas {
  readonly #m: Machine;

  constructor(m: Machine) {
    this.#m = m;
  }

  /**
   * An object without pages.
   *
   * @returns its number. EINVAL: no place, two on one node, a pool of several nodes, a `replicateAfter` out of range.
   *          ENOENT: no such node or pool. Whether `as` may allocate there is asked with each set.
   */
  create(spec: ReplicaSpec, { as = ROOT }: { as?: Principal } = {}): Result<ReplicaId, Refusal> {
    const m = this.#m;
    const { name, on, replicateAfter = 1 } = spec;
    if (on.length === 0) return no('bad-argument', `${name}: it has no place`);
    if (!Number.isInteger(replicateAfter) || replicateAfter < 1 || replicateAfter > MOST_FAR) {
      return no('bad-argument', `${name}: copies are made after 1 to ${MOST_FAR} distant reads, not ${replicateAfter}`);
    }
    const nodes: NodeId[] = [];
    for (const where of on) {
      const found = typeof where === 'number' ? [toNodeId(where)] : poolNamed(m, where)?.nodes;
      const missing = found === undefined || (typeof where === 'number' && !m.nodes.includes(toNodeId(where)));
      if (missing) return no('no-such-pool', `there is no ${typeof where === 'number' ? 'node' : 'pool'} ${where}`);
      if (found.length > 1) return no('bad-argument', `pool ${where} may have frames of ${found.length} nodes`);
      const node = found[0] as NodeId; // the mask of a pool is never empty
      if (nodes.includes(node)) return no('bad-argument', `${name}: two places on node ${node}`);
      nodes.push(node);
    }
    const holders = nodes.map((node) =>
      m.addHolder({ class: spec.class ?? 'file', name: nodes.length > 1 ? `${name} on node ${node}` : name, node }),
    );
    const { objects } = state.of(m);
    objects.push(new ReplicaObject(spec, nodes, holders, as));
    return ok(objects.length - 1);
  }

  /**
   * Pages, filled with zeros: a copy on every node, or one at home. All pages or none.
   *
   * @returns their indexes. ENOMEM, EPERM: the set's, with the node that has none
   */
  add(id: ReplicaId, pages: number, where: 'everywhere' | 'home' = 'everywhere'): Result<number[], SetRefusal> {
    const o = this.#object(id);
    assert(Number.isSafeInteger(pages) && pages >= 1, 'a number of pages', { pages });
    const places = where === 'home' ? [0] : o.nodes.map((_, k) => k);
    const added: number[] = [];
    while (added.length < pages) {
      const page = o.newPage();
      const taken = this.#take(o, page, places);
      if (!taken.ok) {
        o.endPage(page);
        for (const p of added.reverse()) this.#drop(o, p);
        return taken;
      }
      added.push(page);
    }
    return ok(added);
  }

  /** A page that is no more, with all of its copies. EINVAL: it is none. */
  remove(id: ReplicaId, page: number): Result<void, Refusal> {
    const o = this.#object(id);
    if (!o.has(page)) return noPage(o, page);
    this.#drop(o, page);
    return ok(undefined);
  }

  /** The nearest copy for a reader on `node`. EINVAL: no such page, or its last copy was taken. Cost O(nodes). */
  read(id: ReplicaId, page: number, node: number): Result<CopyRead, Refusal> {
    const o = this.#object(id);
    if (!o.has(page)) return noPage(o, page);
    let found = this.#nearest(o, page, node);
    if (found === undefined) return noPage(o, page);
    o.n.reads++;
    if (found.distance === this.#m.distance(toNodeId(node), toNodeId(node))) return ok(found);
    o.n.farReads++;
    o.far[page] = Math.min(MOST_FAR, (o.far[page] as number) + 1);
    if ((o.far[page] as number) >= o.replicateAfter) {
      o.far[page] = 0; // refused or not: the next try is as many reads away
      if (!this.replicate(id, page).ok) o.n.refused++;
      else found = this.#nearest(o, page, node) as CopyRead; // the one that was found is still there
    }
    return ok(found);
  }

  /**
   * Writes into a page, as a writer on `node`. With contents 'bytes' only.
   *
   * @returns pages written, and copies given back. EINVAL: no such page, or its last copy was taken
   */
  write(id: ReplicaId, page: number, node: number, offset: number, data: Uint8Array): Result<CopyWrite, Refusal> {
    const o = this.#object(id);
    if (!o.has(page)) return noPage(o, page);
    let dropped = 0;
    if (o.onWrite === 'collapse') {
      const kept = this.#nearest(o, page, node);
      if (kept === undefined) return noPage(o, page);
      dropped = this.#collapse(o, page, kept.pfn);
    }
    const copies = this.#copies(o, page);
    if (copies.length === 0) return noPage(o, page);
    for (const { pfn } of copies) this.#m.write(pfn, offset, data);
    o.far[page] = 0;
    o.n.writes++;
    o.n.copiesWritten += copies.length;
    return ok({ written: copies.length, dropped });
  }

  /**
   * A page gets the copies that it lacks, as one set.
   *
   * @returns copies made. ENOMEM, EPERM: the set's; EINVAL: no such page, or its last copy was taken
   */
  replicate(id: ReplicaId, page: number): Result<number, Refusal> {
    const o = this.#object(id);
    if (!o.has(page)) return noPage(o, page);
    const [source] = this.#copies(o, page);
    if (source === undefined) return noPage(o, page);
    const missing = o.nodes.map((_, k) => k).filter((k) => this.#copyAt(o, page, k) === undefined);
    if (missing.length === 0) return ok(0);
    const taken = this.#take(o, page, missing);
    if (!taken.ok) return taken;
    for (const pfn of taken.value) this.#copyContents(source.pfn, pfn);
    o.far[page] = 0;
    o.n.copied += missing.length;
    return ok(missing.length);
  }

  /** Only the copy nearest to `node` stays. @returns copies given back. EINVAL: no such page, or its last copy was taken */
  collapse(id: ReplicaId, page: number, node: number): Result<number, Refusal> {
    const o = this.#object(id);
    const kept = o.has(page) ? this.#nearest(o, page, node) : undefined;
    return kept === undefined ? noPage(o, page) : ok(this.#collapse(o, page, kept.pfn));
  }

  /**
   * Copies change their node, all or none: first every target is taken, then contents are copied and the sources freed. A
   * copy whose page has one on the target already is only given back.
   *
   * @returns copies that were made. ENOMEM, EPERM: no target, with the node; EINVAL: no copy there, or not the object's node
   */
  migrate(id: ReplicaId, moves: readonly CopyMove[]): Result<number, Refusal> {
    const m = this.#m;
    const o = this.#object(id);
    const work: { page: number; source: { pfn: Pfn }; k: number; to: number; made: boolean }[] = [];
    const undo = (why: { ok: false; error: Refusal }): { ok: false; error: Refusal } => {
      for (const w of work.reverse()) if (w.made) this.#giveBack(o, w.page, w.to);
      return why;
    };
    const seen = new Set<string>();
    for (const { page, from, to } of moves) {
      const [k, t] = [o.nodes.indexOf(toNodeId(from)), o.nodes.indexOf(toNodeId(to))];
      const source = k >= 0 && o.has(page) ? this.#copyAt(o, page, k) : undefined;
      if (source === undefined || t < 0 || k === t) {
        return undo(no('bad-argument', `${o.name}: page ${page} cannot go from node ${from} to node ${to}`));
      }
      // A chain (0 to 1, and 1 to 2) would depend on the order.
      if (seen.has(`${page} ${k}`) || seen.has(`${page} ${t}`)) {
        return undo(no('bad-argument', `${o.name}: page ${page} is named twice with node ${from} or ${to}`));
      }
      seen.add(`${page} ${k}`).add(`${page} ${t}`);
      const made = this.#copyAt(o, page, t) === undefined;
      if (made) {
        const taken = this.#take(o, page, [t]);
        if (!taken.ok) return undo(taken);
      }
      work.push({ page, source, k, to: t, made });
    }
    // ═══ Point of no return: nothing below can fail. ═══
    let copied = 0;
    for (const w of work) {
      if (w.made) {
        this.#copyContents(w.source.pfn, (this.#copyAt(o, w.page, w.to) as { pfn: Pfn }).pfn); // taken above
        copied++;
      }
      this.#giveBack(o, w.page, w.k);
      m.vmstat.pgmigrate_success++;
    }
    o.n.copied += copied;
    return ok(copied);
  }

  /** Gives back up to `most` copies on a node; the last copy of a page stays. @returns how many. Cost O(pages) */
  shed(id: ReplicaId, node: number, most = Number.POSITIVE_INFINITY): number {
    const o = this.#object(id);
    const k = o.nodes.indexOf(toNodeId(node));
    let given = 0;
    for (let page = 0; page < o.length && k >= 0 && given < most; page++) {
      if (!o.has(page) || this.#copyAt(o, page, k) === undefined || this.#copies(o, page).length < 2) continue;
      this.#giveBack(o, page, k);
      given++;
    }
    o.n.dropped += given;
    return given;
  }

  /** Where the copies of a page lie, in the order of `on`. Empty: no such page. */
  copiesOf(id: ReplicaId, page: number): readonly { readonly node: NodeId; readonly pfn: Pfn }[] {
    const o = this.#object(id);
    return o.has(page) ? this.#copies(o, page) : [];
  }

  stat(id: ReplicaId): ReplicaStat {
    const o = this.#object(id);
    return {
      name: o.name,
      nodes: o.nodes,
      pages: o.length - o.removed.length,
      copies: o.holders.reduce((n, h) => n + (this.#m.holders.pages[h] as number), 0),
      ...o.n,
    };
  }

  /** RP1 and RP3, and that no holder has a frame that is no page's. */
  check(): string[] {
    const m = this.#m;
    const wrong: string[] = [];
    state.of(m).objects.forEach((o, id) => {
      let known = 0;
      for (let page = 0; page < o.length; page++) {
        if (!o.has(page)) continue;
        const copies = this.#copies(o, page);
        known += copies.length;
        if (copies.length === 0) wrong.push(`RP3 page ${page} of ${o.name} has no copy`);
        if (m.spec.contents !== 'bytes' || copies.length < 2) continue;
        const [first, ...others] = copies.map((c) => m.read(c.pfn));
        const differs = others.some((bytes) => bytes.some((x, at) => x !== (first as Uint8Array)[at]));
        if (differs) wrong.push(`RP1 the copies of page ${page} of ${o.name} differ`);
      }
      const { copies } = this.stat(id);
      if (copies !== known) wrong.push(`RP3 ${o.name}: its holders have ${copies} frames, its pages ${known}`);
    });
    return wrong;
  }

  // ---------------------------------------------------------------------------------------------------- how it is done

  #object(id: ReplicaId): ReplicaObject {
    const o = state.of(this.#m).objects[id];
    assert(o !== undefined, 'no such replicated object', { id });
    return o;
  }

  /** A copy, found through its holder's slot; undefined where there is none. Cost O(1). */
  #copyAt(o: ReplicaObject, page: number, k: number): { node: NodeId; pfn: Pfn } | undefined {
    const { holders, sections } = this.#m;
    const slot = o.slots[page * o.nodes.length + k] as number;
    // The slot may be another page's by now, if somebody else freed the frame.
    if (slot === NONE || holders.frameAt(slot) < 0) return undefined;
    if ((o.pageOf[k] as Int32Array)[holders.indexOf(slot)] !== page) return undefined;
    const frame = holders.frameAt(slot);
    const node = this.#m.zoneAt(frame)?.node ?? (o.nodes[k] as NodeId); // offline: it stayed where it was
    return { node, pfn: sections.pfnOf(frame) };
  }

  #copies(o: ReplicaObject, page: number): { node: NodeId; pfn: Pfn }[] {
    const out: { node: NodeId; pfn: Pfn }[] = [];
    for (let k = 0; k < o.nodes.length; k++) {
      const copy = this.#copyAt(o, page, k);
      if (copy !== undefined) out.push(copy);
    }
    return out;
  }

  #nearest(o: ReplicaObject, page: number, node: number): CopyRead | undefined {
    let best: CopyRead | undefined;
    for (let k = 0; k < o.nodes.length; k++) {
      const copy = this.#copyAt(o, page, k);
      if (copy === undefined) continue;
      const distance = this.#m.distance(toNodeId(node), copy.node);
      if (best === undefined || distance < best.distance) best = { ...copy, distance };
    }
    return best;
  }

  /** Frames for a page's copies on these places, as one set; contents are the caller's to write. */
  #take(o: ReplicaObject, page: number, places: readonly number[]): Result<Pfn[], SetRefusal> {
    const m = this.#m;
    const on = places.map((k) => o.on[k] as number | string);
    const holders = places.map((k) => o.holders[k] as HolderId);
    const set = allocSet(m, { on, holders, order: FRAME, offset: o.offset }, o.as);
    if (!set.ok) return set;
    set.value.forEach(({ pfn }, j) => {
      const slot = m.sections.ownerAt(m.sections.indexOf(pfn));
      o.setCopy(page, places[j] as number, slot, m.holders.indexOf(slot));
    });
    return ok(set.value.map((member) => member.pfn));
  }

  #copyContents(from: Pfn, to: Pfn): void {
    // Tags are an allocation's own: only bytes can be copied from one allocation to another.
    if (this.#m.spec.contents === 'bytes') this.#m.write(to, 0, this.#m.read(from));
  }

  #collapse(o: ReplicaObject, page: number, kept: Pfn): number {
    let dropped = 0;
    for (let k = 0; k < o.nodes.length; k++) {
      const copy = this.#copyAt(o, page, k);
      if (copy === undefined || copy.pfn === kept) continue;
      this.#giveBack(o, page, k);
      dropped++;
    }
    o.n.dropped += dropped;
    return dropped;
  }

  #giveBack(o: ReplicaObject, page: number, k: number): void {
    const copy = this.#copyAt(o, page, k);
    o.slots[page * o.nodes.length + k] = NONE;
    if (copy !== undefined) this.#m.free(copy.pfn);
  }

  #drop(o: ReplicaObject, page: number): void {
    for (let k = 0; k < o.nodes.length; k++) this.#giveBack(o, page, k);
    o.endPage(page);
  }
}

const noPage = (o: ReplicaObject, page: number): { ok: false; error: Refusal } =>
  no('bad-argument', `${o.name} has no page ${page}, or its last copy was taken`);
