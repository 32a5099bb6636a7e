// DMA pools: find or create. A driver says its rule, and gets a share of a pool whose frames all keep it.
//
//   rule ──form──> 1  the pool that was made for an equal form, if it has room or can grow ─────────────┐
//                  2  a pool whose form satisfies the rule's, the least strict first, with room or growth │──> a reference
//                  3  a new pool: a window is chosen, emptied and carved                                ─┘
//                  4  ENOSPC, with the best window and the pages that it lacks
//
//   pool  dma-3   form, window ──┬── reference 7: device, form, min, max ──┬── buffer 11: segments
//                                └── reference 9 ...                       └── buffer 12
//
// Room is counted in promises: each reference is promised its `min`, and what it has beyond. A pool has the sum of its
// promises at least, so that all of them can be kept at once. 1 and 2 give way to 3 where a new pool would be nearer to
// the device, or of less scarce memory, than the frames that the old one would get: no page below 16 MiB or 4 GiB goes to
// a rule that other memory can serve, and none far away to a device that has memory near.
// A window stays as long as a buffer is live in it. Of an empty pool it may be chosen anew (`rebase`); step 1 does that by
// itself when the window has no room left. A device's references with one rule share one window too.
// The last release gives all frames back to the zones, but for a rule with lifetime 'boot'.
//
// Invariants (checkDma): DP1 each live segment lies in the pool, is the reference's, and keeps its form; DP2 all live
// buffers of a pool lie in its window, all of a device's with one rule in one window; DP3 promises <= frames; no pool
// without references, but for 'boot'; DP4 used frames of the pool are those of its buffers. After Snook 2007, problems 1
// and 2: "look for an existing dma pool that follows its rules, or create a new one if necessary" (spec 9.B).

import { assert } from '#base/assert';
import { err, ok, type Result } from '#base/result';
import { type HolderId, type NodeId, toPfn } from '#base/units';
import { takeFreeFrames } from '../free-frames.ts';
import { PAGE_SIZE, PAGEBLOCK_PAGES } from '../geometry.ts';
import type { Machine } from '../machine.ts';
import { machineState } from '../machine-state.ts';
import type { PageStateOf } from '../page-state.ts';
import type { Pool } from '../pool.ts';
import { type Refusal, refusal } from '../refusal.ts';
import { violationOf } from './dma-buffer.ts';
import { ALL_BITS, type Extent, extent, intersect, isSubset, normalise, pagesOf } from './dma-extent.ts';
import {
  distanceOf,
  dmaMemory,
  freeExtents,
  kernelZones,
  nearestDistance,
  nodeAt,
  returnExtents,
  takeExtents,
  without,
} from './dma-memory.ts';
import {
  canHold,
  type DmaPlan,
  type DmaRank,
  type DmaWant,
  placeBest,
  planPool,
  rankOf,
  ranksBefore,
} from './dma-plan.ts';
import { type DmaForm, type DmaRule, formOfRule, leastStrictFirst, restricted, satisfies } from './dma-rule.ts';
import { chooseWindow, type NoWindow, windowAt } from './dma-window.ts';
import { denseRuns, givable } from './pool-move.ts';
import { attrsOf, poolNamed, poolTableOf } from './pool-table.ts';
import { pools } from './pools.ts';

export type DmaDevice = {
  readonly name: string;
  /** Where it is plugged in: what a rule that names no node prefers. */
  readonly node?: number;
};

export type DmaNeed = {
  readonly device: DmaDevice;
  /** Pages that it is promised, 1 at least. */
  readonly min: number;
  /** Pages that its buffers may have at one time. Default: min. */
  readonly max?: number;
  /** Of the pool, which keeps the highest of its references'. Default 0. */
  readonly priority?: number;
  /** Bytes of buffers that it is about to ask for: the frames are chosen so that they find a place. */
  readonly buffers?: readonly number[];
};

export type DmaOptions = {
  /** Who knows which page cache is clean and unmapped: that is dropped, the rest is moved (page-state.ts). */
  readonly pageState?: PageStateOf;
};

/** How a reference came to be. */
export type DmaHow = 'shared' | 'satisfied' | 'created';

export type DmaRef = {
  readonly id: number;
  readonly device: string;
  /** The pool's name. */
  readonly pool: string;
  readonly how: DmaHow;
  readonly window: Extent;
  readonly min: number;
  readonly max: number;
};

export type DmaBuffer = { readonly id: number; readonly segments: readonly Extent[]; readonly pages: number };

export type DmaPoolStat = {
  readonly name: string;
  /** Of the form that it was made for. */
  readonly key: string;
  readonly window: Extent;
  readonly users: number;
  readonly pages: number;
  readonly promised: number;
  readonly live: number;
  readonly lifetime: 'module' | 'boot';
};

/** NoWindow, where that is the reason; `best` is undefined for all others. */
export type DmaRefusal = Refusal & { readonly best?: NoWindow['best'] };

type PoolRow = {
  readonly name: string;
  readonly id: number;
  /** What it was made for. */
  readonly form: DmaForm;
  window: Extent;
  boot: boolean;
  /** Of a 'boot' pool: pages that stay when nobody asks for them. */
  kept: number;
};

type RefRow = {
  readonly id: number;
  readonly pool: string;
  readonly device: string;
  readonly how: DmaHow;
  readonly form: DmaForm;
  readonly min: number;
  readonly max: number;
  readonly priority: number;
  readonly holder: HolderId;
  readonly buffers: Map<number, DmaBuffer>;
  live: number;
};

class DmaState {
  pools = new Map<string, PoolRow>();
  refs = new Map<number, RefRow>();
  holders = new Map<string, HolderId>();
  nextPool = 0;
  nextRef = 1;
  nextBuffer = 1;

  copy(): DmaState {
    const to = new DmaState();
    for (const [name, row] of this.pools) to.pools.set(name, { ...row });
    for (const [id, ref] of this.refs) to.refs.set(id, { ...ref, buffers: new Map(ref.buffers) });
    to.holders = new Map(this.holders);
    to.nextPool = this.nextPool;
    to.nextRef = this.nextRef;
    to.nextBuffer = this.nextBuffer;
    return to;
  }
}

const states = machineState(() => new DmaState());

/** The DMA pools of a machine; `options` hold for the calls of this one. */
export const dmaPools = (m: Machine, options: DmaOptions = {}): DmaPools => new DmaPools(m, options);

const no = (reason: Parameters<typeof refusal>[0], message: string): { ok: false; error: Refusal } =>
  err(refusal(reason, message));

const isCount = (n: number): boolean => Number.isSafeInteger(n) && n >= 1;
const pagesFor = (bytes: number): number => Math.ceil(bytes / PAGE_SIZE);

/** What a candidate is held against. */
type Asked = {
  /** With the window that binds the device. */
  readonly form: DmaForm;
  readonly bound: Extent | undefined;
  readonly min: number;
  readonly buffers: readonly number[];
};

/** What a pool would get, and how good what the reference gets of it is. */
type Growth = DmaRank & { readonly form: DmaForm; readonly want: DmaWant; readonly plan: DmaPlan | undefined };

export class DmaPools {
  readonly #m: Machine;
  readonly #pageState: PageStateOf | undefined;

  constructor(m: Machine, { pageState }: DmaOptions) {
    this.#m = m;
    this.#pageState = pageState;
  }

  /**
   * A share of a pool that keeps the rule: see the top.
   *
   * @returns the reference; bad-argument (EINVAL) for a rule or a need that is none; no-window (ENOSPC) with the best
   *   window; pool-busy (EBUSY) if what is in the way does not leave. A refusal changes no pool. Cost O(free pieces of the
   *   zones + DMA pools), and O(used frames of the zones) where free memory is not the best that there could be
   */
  findOrCreate(rule: DmaRule, need: DmaNeed): Result<DmaRef, DmaRefusal> {
    const m = this.#m;
    const formed = formOfRule(withNode(rule, need.device));
    if (!formed.ok) return formed;
    const form = formed.value;
    const wrong = wrongNeed(need) ?? form.required?.find((n) => !m.nodes.includes(n));
    if (typeof wrong === 'number') return no('bad-argument', `${need.device.name}: there is no node ${wrong}`);
    if (wrong !== undefined) return no('bad-argument', `${need.device.name}: ${wrong}`);
    const { min, buffers = [] } = need;
    const bound = this.#windowOf(need.device.name, form);
    const asked: Asked = { form: bound === undefined ? form : restricted(form, [bound]), bound, min, buffers };

    const want: DmaWant = { pages: min, buffers, own: [], pageState: this.#pageState };
    let planned: Result<DmaPlan, NoWindow> | undefined;
    const fresh = (): Result<DmaPlan, NoWindow> => (planned ??= planPool(m, asked.form, want));
    let refused: Refusal | undefined;
    const passedOver: { row: PoolRow; how: DmaHow; growth: Growth }[] = [];
    for (const { row, how } of this.#candidates(asked, form.key)) {
      const growth = this.#growthOf(row, asked, how);
      if (growth === undefined) {
        if (how === 'shared' && bound === undefined && this.rebase(row.name, { more: min }).ok)
          return this.#refer(row, how, need, form, rule);
        continue;
      }
      const best = growth.tier === 0 && growth.distance <= nearestDistance(m, asked.form);
      const better = best ? undefined : fresh();
      if (better?.ok && ranksBefore(better.value, growth)) {
        passedOver.push({ row, how, growth });
        continue;
      }
      refused = this.#grow(row, growth);
      if (refused === undefined) return this.#refer(row, how, need, form, rule);
    }
    const plan = fresh();
    if (plan.ok) {
      const made = this.#create(form, asked.form, plan.value, want, need.priority ?? 0);
      if (made.ok) return this.#refer(made.value, 'created', need, form, rule);
      refused = made.error;
    }
    for (const { row, how, growth } of passedOver) {
      if (this.#grow(row, growth) === undefined) return this.#refer(row, how, need, form, rule);
    }
    if (refused !== undefined || plan.ok) return err(refused as Refusal); // a plan that failed left its refusal
    return err({ ...plan.error.refusal, best: plan.error.best });
  }

  /**
   * Ends a reference. The last one ends the pool, unless its lifetime is 'boot'; else what nobody was promised goes back.
   * @returns pool-busy (EBUSY) while it has buffers
   */
  release(id: number): Result<void, Refusal> {
    const state = states.of(this.#m);
    const ref = state.refs.get(id);
    if (ref === undefined) return no('no-such-pool', `there is no DMA reference ${id}`);
    if (ref.buffers.size > 0) {
      return no('pool-busy', `${ref.device}: ${ref.buffers.size} of its buffers are live in ${ref.pool}`);
    }
    state.refs.delete(id);
    const row = this.#rowOf(ref.pool);
    if (row === undefined) return ok(undefined); // somebody destroyed the pool
    if (this.#refsOf(row).length > 0 || row.boot) {
      this.#writeAttrs(row);
      this.#trim(row, this.#promised(row));
      return ok(undefined);
    }
    const ended = pools(this.#m).destroy(row.name, {});
    if (!ended.ok) return ended; // somebody borrowed from it, or used it by other ways
    state.pools.delete(row.name);
    return ok(undefined);
  }

  /**
   * A buffer of a reference's pool: every segment keeps the rule. The pool grows for it within its window, nearest memory
   * first, up to the reference's max.
   *
   * @returns guarantee (ENOSPC) beyond max, no-window (ENOSPC) if there is no place, bad-argument (EINVAL) for no size
   */
  allocBuffer(id: number, bytes: number): Result<DmaBuffer, DmaRefusal> {
    const m = this.#m;
    const state = states.of(m);
    const ref = state.refs.get(id);
    const row = ref === undefined ? undefined : this.#rowOf(ref.pool);
    if (ref === undefined || row === undefined) return no('no-such-pool', `there is no DMA reference ${id}`);
    if (!isCount(bytes)) return no('bad-argument', `${ref.device}: a DMA buffer of ${bytes} bytes is none`);
    const pages = pagesFor(bytes);
    if (ref.live + pages > ref.max) {
      return no('guarantee', `${ref.device}: ${ref.live + pages} pages are more than its max, ${ref.max}`);
    }
    const placed = this.#place(row, ref, bytes, pages);
    if (!placed.ok) return placed;
    const pool = m.pools[row.id] as Pool;
    for (const s of placed.value) {
      for (const run of denseRuns(m, s.start, s.end)) takeFreeFrames(pool, run.start, run.end);
      m.place(ref.holder, s.start, s.end);
    }
    const buffer: DmaBuffer = { id: state.nextBuffer++, segments: placed.value, pages };
    ref.buffers.set(buffer.id, buffer);
    ref.live += pages;
    this.#trim(
      row,
      Math.max(
        this.#promised(row),
        this.#refsOf(row).reduce((n, r) => n + r.max, row.kept),
      ),
    );
    return ok(buffer);
  }

  /** Frees a buffer: its frames are the pool's, and free. */
  freeBuffer(id: number, buffer: number): Result<void, Refusal> {
    const m = this.#m;
    const ref = states.of(m).refs.get(id);
    const found = ref?.buffers.get(buffer);
    if (ref === undefined || found === undefined) return no('bad-argument', `reference ${id} has no buffer ${buffer}`);
    for (const s of found.segments) {
      for (let pfn: number = s.start; pfn < s.end; ) {
        const a = m.sections.allocationAt(m.sections.indexOf(toPfn(pfn)));
        assert(a !== undefined, 'a frame of a live buffer is not allocated', { pfn, buffer });
        m.free(toPfn(pfn));
        pfn += 2 ** a.order;
      }
    }
    ref.buffers.delete(buffer);
    ref.live -= found.pages;
    return ok(undefined);
  }

  /**
   * Chooses the window of an empty pool anew, for what it is promised and `more` pages; the same one if that is best.
   * Counts as a change of the pool only if frames changed.
   *
   * @returns the window; pool-busy (EBUSY) while a buffer is live, or while another pool's window binds a device of this
   *   one; no-window (ENOSPC), and the pool has what it had
   */
  rebase(name: string, { more = 0 }: { readonly more?: number } = {}): Result<Extent, DmaRefusal> {
    const m = this.#m;
    const row = this.#rowOf(name);
    if (row === undefined) return no('no-such-pool', `there is no DMA pool ${name}`);
    const refs = this.#refsOf(row);
    const busy = refs.find((r) => r.live > 0);
    if (busy !== undefined) return no('pool-busy', `${name}: ${busy.device} has ${busy.live} live pages in its window`);
    const elsewhere = refs.find((r) => isWindowed(r.form) && this.#windowOf(r.device, r.form, name) !== undefined);
    if (elsewhere !== undefined)
      return no('pool-busy', `${name}: ${elsewhere.device} has the same rule in another pool`);
    const pool = m.pools[row.id] as Pool;
    if (pool.managed !== pool.alloc.nrFree() + pool.alloc.pcpPages()) {
      return no('pool-busy', `${name}: ${pool.managed - pool.alloc.nrFree()} of its pages are not free`);
    }
    const had = freeExtents(m, pool);
    const pages = Math.max(1, this.#promised(row, more));
    const memory = dmaMemory(m, row.form, {
      what: 'vacatable',
      own: had,
      ...(this.#pageState === undefined ? {} : { pageState: this.#pageState }),
    });
    const chosen = chooseWindow(row.form, memory.nodes, { min: pages, max: pages }, memory.costOf);
    if (!chosen.ok) return err({ ...chosen.error.refusal, best: chosen.error.best });
    const { extents } = chosen.value;
    const wanted = without(extents, had);
    const got = wanted.length === 0 ? undefined : takeExtents(m, pool, wanted, this.#pageState);
    if (got !== undefined && 'reason' in got) return err(got);
    // ═══ Point of no return: nothing below can fail. ═══
    const first = extents[0] as Extent; // of `pages`, 1 at least
    this.#setWindow(row, windowAt(row.form, first.start));
    for (const zone of kernelZones(m)) {
      const leaving = without(had, extents).filter((e) => m.zoneAt(m.sections.indexOf(e.start)) !== undefined);
      const mine = leaving.flatMap((e) => labelledBy(m, zone, e));
      if (mine.length > 0) returnExtents(m, pool, zone, mine);
    }
    this.#writeAttrs(row);
    if (wanted.length > 0) m.emit({ type: 'pool', verb: 'rebase', pool: name, pages });
    return ok(row.window);
  }

  /** All DMA pools, by name in the order of their making. */
  list(): DmaPoolStat[] {
    return [...states.of(this.#m).pools.values()].flatMap((row) => {
      if (this.#rowOf(row.name) === undefined) return [];
      const refs = this.#refsOf(row);
      const stat: DmaPoolStat = {
        name: row.name,
        key: row.form.key,
        window: row.window,
        users: refs.length,
        pages: (this.#m.pools[row.id] as Pool).managed,
        promised: this.#promised(row),
        live: refs.reduce((n, r) => n + r.live, 0),
        lifetime: row.boot ? 'boot' : 'module',
      };
      return [stat];
    });
  }

  /** A reference as it stands. */
  ref(id: number): DmaRef | undefined {
    const ref = states.of(this.#m).refs.get(id);
    const row = ref === undefined ? undefined : this.#rowOf(ref.pool);
    if (ref === undefined || row === undefined) return undefined;
    const { device, pool, how, min, max } = ref;
    return { id, device, pool, how, window: row.window, min, max };
  }

  /** Live buffers of a reference, in the order of their making. */
  buffers(id: number): DmaBuffer[] {
    return [...(states.of(this.#m).refs.get(id)?.buffers.values() ?? [])];
  }

  // ---------------------------------------------------------------------------------------------------- how it is done

  /** A DMA pool that is still there: somebody may have destroyed it by name. */
  #rowOf(name: string): PoolRow | undefined {
    const row = states.of(this.#m).pools.get(name);
    return row !== undefined && attrsOf(this.#m, row.id).name === name ? row : undefined;
  }

  #refsOf(row: PoolRow): RefRow[] {
    return [...states.of(this.#m).refs.values()].filter((r) => r.pool === row.name);
  }

  /** Pages that the pool has to have. */
  #promised(row: PoolRow, more = 0): number {
    return Math.max(row.kept, this.#refsOf(row).reduce((n, r) => n + Math.max(r.min, r.live), 0) + more);
  }

  /** The window that a device's other references with this rule lie in. */
  #windowOf(device: string, form: DmaForm, butNot?: string): Extent | undefined {
    if (!isWindowed(form)) return undefined;
    for (const ref of states.of(this.#m).refs.values()) {
      if (ref.device !== device || ref.form.key !== form.key || ref.pool === butNot) continue;
      const row = this.#rowOf(ref.pool);
      if (row !== undefined) return windowAt(form, row.window.start);
    }
    return undefined;
  }

  /** Pools that keep the rule: those made for it, then those made for a stricter one, the least strict first. */
  #candidates({ form, bound }: Asked, key: string): { row: PoolRow; how: DmaHow }[] {
    const rows = [...states.of(this.#m).pools.values()].filter((r) => this.#rowOf(r.name) !== undefined);
    const within = (r: PoolRow): boolean => bound === undefined || isSubset([r.window], [bound]);
    const equal = rows.filter((r) => r.form.key === key && within(r));
    const stricter = rows
      .filter((r) => r.form.key !== key && within(r))
      .map((row) => ({ row, form: restricted(row.form, [row.window]) }))
      .filter((r) => satisfies(r.form, form))
      .sort((a, b) => leastStrictFirst(a.form, b.form) || a.row.id - b.row.id);
    return [
      ...equal.map((row) => ({ row, how: 'shared' as const })),
      ...stricter.map(({ row }) => ({ row, how: 'satisfied' as const })),
    ];
  }

  /** What a pool lacks for one more reference; undefined if it cannot have it. */
  #growthOf(row: PoolRow, asked: Asked, how: DmaHow): Growth | undefined {
    const m = this.#m;
    const pool = m.pools[row.id] as Pool;
    const form = growthForm(asked.form, row);
    const own = freeExtents(m, pool);
    const lacking = Math.max(0, this.#promised(row, asked.min) - pool.managed);
    const want: DmaWant = { pages: Math.max(1, lacking), buffers: asked.buffers, own, pageState: this.#pageState };
    if (lacking === 0 && canHold(form, own, asked.buffers)) {
      const rank = how === 'shared' ? { distance: 0, tier: 0 } : rankOf(m, asked.form, own);
      return { form, want, plan: undefined, ...rank };
    }
    const plan = planPool(m, form, want);
    if (!plan.ok) return undefined;
    return { form, want, plan: plan.value, distance: plan.value.distance, tier: plan.value.tier };
  }

  #grow(row: PoolRow, { form, want, plan }: Growth): Refusal | undefined {
    if (plan === undefined) return undefined;
    const pool = this.#m.pools[row.id] as Pool;
    const carved = this.#carve(pool, form, plan, want);
    if (!carved.ok) return carved.error;
    this.#m.emit({ type: 'pool', verb: 'resize', pool: row.name, pages: pool.managed });
    return undefined;
  }

  /** Takes what was planned; if that does not leave, what is free, if that is enough. One retry. */
  #carve(pool: Pool, form: DmaForm, plan: DmaPlan, want: DmaWant): Result<DmaPlan, Refusal> {
    const taken = takeExtents(this.#m, pool, plan.extents, this.#pageState);
    if (!('reason' in taken)) return ok(plan);
    const again = planPool(this.#m, form, want, 'free');
    if (!again.ok) return err(taken);
    const second = takeExtents(this.#m, pool, again.value.extents, this.#pageState);
    return 'reason' in second ? err(second) : again;
  }

  /** A new pool for a form, with the frames of a plan. */
  #create(form: DmaForm, within: DmaForm, plan: DmaPlan, want: DmaWant, priority: number): Result<PoolRow, Refusal> {
    const m = this.#m;
    const state = states.of(m);
    let name = `dma-${state.nextPool++}`;
    while (poolNamed(m, name) !== undefined) name = `dma-${state.nextPool++}`;
    const nodes = [...(form.required ?? m.nodes)].sort(
      (a, b) => distanceOf(m, form, a) - distanceOf(m, form, b) || a - b,
    );
    const ranges = intersect(form.ranges, [plan.window]);
    const zones = ['DMA', 'DMA32', 'Normal'] as const;
    const made = pools(m).create({ name, pages: 0, nodes, zones, ranges, rule: form.key, class: 'dma', priority });
    if (!made.ok) return made;
    const carved = this.#carve(m.pools[made.value.id] as Pool, within, plan, want);
    if (!carved.ok) {
      const undone = pools(m).destroy(name);
      assert(undone.ok, 'an empty pool that nobody knows can be destroyed', { name });
      return carved;
    }
    const first = carved.value.extents[0] as Extent; // a plan has a page
    const row: PoolRow = { name, id: made.value.id, form, window: plan.window, boot: false, kept: 0 };
    state.pools.set(name, row);
    this.#setWindow(row, windowAt(form, first.start));
    m.emit({ type: 'pool', verb: 'resize', pool: name, pages: (m.pools[row.id] as Pool).managed });
    return ok(row);
  }

  #setWindow(row: PoolRow, window: Extent): void {
    row.window = window;
    const { rows } = poolTableOf(this.#m);
    rows[row.id] = { ...attrsOf(this.#m, row.id), ranges: intersect(row.form.ranges, [window]) };
  }

  /** The pool has what the reference is promised: it is written down. */
  #refer(row: PoolRow, how: DmaHow, need: DmaNeed, form: DmaForm, rule: DmaRule): Result<DmaRef, Refusal> {
    const state = states.of(this.#m);
    const { min, max = min, priority = 0, device } = need;
    let holder = state.holders.get(device.name);
    if (holder === undefined) {
      holder = this.#m.addHolder({ class: 'driver', name: device.name });
      state.holders.set(device.name, holder);
    }
    const id = state.nextRef++;
    const ref = { id, pool: row.name, device: device.name, how, form, min, max, priority, holder };
    state.refs.set(id, { ...ref, buffers: new Map(), live: 0 });
    const before = { boot: row.boot, kept: row.kept };
    if (rule.lifetime === 'boot') row.boot = true;
    if (row.boot) row.kept = this.#promised(row);
    const refused = this.#writeAttrs(row);
    if (refused !== undefined) {
      Object.assign(row, before);
      this.release(id);
      return err(refused);
    }
    return ok(this.ref(id) as DmaRef); // it was added just now
  }

  /** min, max and priority of the pool are those of its references. */
  #writeAttrs(row: PoolRow): Refusal | undefined {
    const refs = this.#refsOf(row);
    const pool = this.#m.pools[row.id] as Pool;
    const most = refs.reduce((n, r) => n + r.max, 0);
    const change = {
      min: Math.min(
        pool.managed,
        Math.max(
          row.kept,
          refs.reduce((n, r) => n + r.min, 0),
        ),
      ),
      max: Math.max(most, row.kept, pool.present),
      priority: refs.reduce((n, r) => Math.max(n, r.priority), 0),
    };
    const set = pools(this.#m).setattr(row.name, change);
    return set.ok ? undefined : set.error;
  }

  /** Free frames beyond `pages` go back to the zones. */
  #trim(row: PoolRow, pages: number): void {
    const pool = this.#m.pools[row.id] as Pool;
    const surplus = Math.min(pool.managed - pages, givable(this.#m, pool));
    if (surplus <= 0) return;
    const resized = pools(this.#m).resize(row.name, pool.managed - surplus);
    if (resized.ok) this.#writeAttrs(row);
  }

  /** Frames for a buffer, free and the pool's. */
  #place(row: PoolRow, ref: RefRow, bytes: number, pages: number): Result<readonly Extent[], DmaRefusal> {
    const m = this.#m;
    const pool = m.pools[row.id] as Pool;
    pool.alloc.drain();
    const form = growthForm(ref.form, row);
    const lacking =
      this.#promised(row) - Math.max(ref.min, ref.live) + Math.max(ref.min, ref.live + pages) - pool.managed;
    const inPool = (): readonly Extent[] | undefined =>
      placeBest(form, dmaMemory(m, form, { what: 'none', own: freeExtents(m, pool) }), bytes);
    const there = lacking <= 0 ? inPool() : undefined;
    if (there !== undefined) {
      // Memory nearer to the device comes first, even if the pool has some that is farther away.
      const rank = rankOf(m, form, there);
      if (rank.distance <= nearestDistance(m, form)) return ok(there);
      const want: DmaWant = { pages, buffers: [bytes], own: [], pageState: this.#pageState };
      const nearer = planPool(m, form, want);
      if (!nearer.ok || nearer.value.distance >= rank.distance) return ok(there);
      if (this.#grow(row, { ...rank, form, want, plan: nearer.value }) !== undefined) return ok(there);
      return ok(inPool() ?? there);
    }
    const want: DmaWant = {
      pages: Math.max(1, lacking),
      buffers: [bytes],
      own: freeExtents(m, pool),
      pageState: this.#pageState,
    };
    const plan = planPool(m, form, want);
    if (!plan.ok) return err({ ...plan.error.refusal, best: plan.error.best });
    const refused = this.#grow(row, { form, want, plan: plan.value, distance: 0, tier: 0 });
    if (refused !== undefined) return err(refused);
    const found = inPool();
    assert(found !== undefined, 'a plan for a buffer has room for it', { pool: row.name, bytes });
    return ok(found);
  }
}

const isWindowed = (form: DmaForm): boolean => form.windowBits < ALL_BITS;

/** A rule that names no node prefers the device's. */
const withNode = (rule: DmaRule, { node }: DmaDevice): DmaRule =>
  rule.node !== undefined || node === undefined ? rule : { ...rule, node: { nodes: [node], strength: 'preferred' } };

/** Where frames for a form may lie in a pool that was made for one as strict, or stricter. */
const growthForm = (form: DmaForm, row: PoolRow): DmaForm =>
  restricted({ ...form, required: row.form.required }, intersect(row.form.ranges, [row.window]));

function wrongNeed({ min, max = min, priority = 0, buffers = [] }: DmaNeed): string | undefined {
  if (!isCount(min) || !isCount(max) || max < min) return `${min} to ${max} pages are no need`;
  if (!Number.isInteger(priority) || priority < 0 || priority > 255) return `a priority is 0 to 255, not ${priority}`;
  const odd = buffers.find((b) => !isCount(b));
  if (odd !== undefined) return `a DMA buffer of ${odd} bytes is none`;
  const pages = buffers.reduce((n, b) => n + pagesFor(b), 0);
  return pages > max ? `its buffers have ${pages} pages, its max is ${max}` : undefined;
}

/** The parts of an extent that bear a zone's label. */
function labelledBy(m: Machine, zone: Pool, e: Extent): Extent[] {
  const out: Extent[] = [];
  for (let pfn: number = e.start; pfn < e.end; ) {
    const next = Math.min(e.end, pfn - (pfn % PAGEBLOCK_PAGES) + PAGEBLOCK_PAGES);
    const index = m.sections.indexOf(toPfn(pfn));
    if (index >= 0 && m.zoneAt(index) === zone) out.push(extent(pfn, next));
    pfn = next;
  }
  return normalise(out);
}

/** DP1 to DP4, in words; empty when sound. Cost O(buffers + frames of DMA pools). */
export function checkDma(m: Machine): string[] {
  const wrong: string[] = [];
  const state = states.has(m);
  if (state === undefined) return wrong;
  for (const row of state.pools.values()) {
    const refs = [...state.refs.values()].filter((r) => r.pool === row.name);
    const attrs = attrsOf(m, row.id);
    if (attrs.name !== row.name || attrs.class !== 'dma') {
      wrong.push(`DP3 ${row.name} is no DMA pool any more, and has ${refs.length} references`);
      continue;
    }
    const pool = m.pools[row.id] as Pool;
    const effective = restricted(row.form, [row.window]);
    const promised = refs.reduce((n, r) => n + Math.max(r.min, r.live), 0);
    if (promised > pool.managed) wrong.push(`DP3 ${row.name} is promised ${promised} pages and has ${pool.managed}`);
    if (refs.length === 0 && !row.boot) wrong.push(`DP3 ${row.name} has no references, and no lifetime of its own`);
    for (const ref of refs) {
      const buffers = [...ref.buffers.values()];
      const live = buffers.reduce((n, b) => n + pagesOf(b.segments), 0);
      if (live !== ref.live) wrong.push(`DP3 ${ref.device} has ${live} live pages in ${row.name}, counted ${ref.live}`);
      if (ref.live > ref.max) wrong.push(`DP3 ${ref.device} has ${ref.live} live pages, its max is ${ref.max}`);
      if (!satisfies(effective, ref.form)) wrong.push(`DP1 ${row.name} does not keep the rule of ${ref.device}`);
      const segments = buffers.map((b) => b.segments);
      const violation = violationOf(ref.form, segments);
      if (violation !== undefined) wrong.push(`DP1 ${ref.device}: ${violation}`);
      for (const s of segments.flat()) {
        if (!isSubset([s], [row.window]))
          wrong.push(`DP2 frame ${s.start} of ${ref.device} is not in its pool's window`);
        for (let pfn: number = s.start; pfn < s.end; pfn++) {
          const f = m.frame(toPfn(pfn));
          if (f.state !== 'used' || f.holder !== ref.holder) wrong.push(`DP1 frame ${pfn} is not ${ref.device}'s`);
          else if (f.pool !== pool) wrong.push(`DP1 frame ${pfn} of ${ref.device} is not in ${row.name}`);
          else if (ref.form.required?.includes(nodeAt(m, toPfn(pfn)) as NodeId) === false) {
            wrong.push(`DP1 frame ${pfn} of ${ref.device} is on a node that its rule does not allow`);
          }
        }
      }
      for (const other of state.refs.values()) {
        if (other.id <= ref.id || other.device !== ref.device || other.form.key !== ref.form.key) continue;
        const violated = violationOf(ref.form, [...segments, ...[...other.buffers.values()].map((b) => b.segments)]);
        if (violated !== undefined) wrong.push(`DP2 ${ref.device}, two references: ${violated}`);
      }
    }
    const used = pool.managed - pool.alloc.nrFree() - pool.alloc.pcpPages() - pool.alloc.nrIsolated();
    const live = refs.reduce((n, r) => n + r.live, 0);
    if (used !== live) wrong.push(`DP4 ${row.name} has ${used} used pages, its buffers have ${live}`);
  }
  for (const ref of state.refs.values()) {
    if (!state.pools.has(ref.pool)) wrong.push(`DP3 ${ref.device} refers to ${ref.pool}, which is gone`);
  }
  return wrong;
}
