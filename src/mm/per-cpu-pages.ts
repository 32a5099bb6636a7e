// Per-CPU pages, to the letter: what each CPU keeps of a zone's free pages, so that most requests need no lock.
//
//   list (of 14 a CPU)   0..11: order 0 to 3 times Unmovable, Movable, Reclaimable     12: order 9, not Movable
//                                                                                      13: order 9, Movable
//      head                          tail
//       │ newest free │ ... │ oldest │       alloc and free at the head; a refill appends at the tail, in the area's
//                                            order; overflow takes from the tails, list after list
//
//   high_min <= high <= high_max    `high` is one limit for the sum of a CPU's lists. It grows with every refill and
//                                   with every run of frees, shrinks while the zone is below its high mark
//   refill     order 0: batch << alloc_factor (one more each time, halved by each free), within high - count - batch
//              others: max(batch >> order, 2)
//   overflow   as many as were freed in a row, from `batch` to high - batch, beginning with the list just freed to
//   off        high_min = high_max = 0, batch = 1: a page freed leaves at once, one that is wanted comes alone
//
// `tuning` is the kernel's age: 'auto' as above (6.7 and later), 'fixed' before: high does not move, a refill is a batch,
// and the overflow doubles with each free. (Kernels up to mid 2024 had one list of order 9 for all types, through which
// CMA frames reached requests that may not have them; 6.10 and stable kernels of that year have two.)
//
//   state, Int32 x 8 a CPU   0 count, pages on its lists   1 high now   2 alloc_factor   3 free_count ('fixed': free_factor)
//                            4 previous free was of order 1 to 3
//
// Invariants: count is the sum over the lists; a page is on one list or in the area or in use; frees in Isolate
// pageblocks never stop here, frees in CMA and HighAtomic ones are on the Movable lists.
//
// Follows Linux v6.12 and v6.1 mm/page_alloc.c: nr_pcp_alloc(), nr_pcp_free(), nr_pcp_high(), free_unref_page_commit(),
// free_pcppages_bulk(), decay_pcp_high(), drain_pages_zone(), order_to_pindex() (spec 2.4). The size of the CPU's cache
// is taken to be ample (PCPF_FREE_HIGH_BATCH set), and reclaim is never under way.

import { assert } from '#base/assert';
import type { FreeArea } from './free-area.ts';
import { MIGRATE_ISOLATE, MIGRATE_MOVABLE, NR_PCP_TYPES, PAGEBLOCK_ORDER } from './geometry.ts';
import type { PageAllocCore, PcpFront, PcpLimits, PcpPressure } from './page-alloc.ts';

/** Do `high` and the batches follow the load (Linux from 6.7 on), or not? */
export type PcpTuning = 'auto' | 'fixed';

/** PAGE_ALLOC_COSTLY_ORDER: above it only pageblocks have lists. */
const COSTLY_ORDER = 3;
const NR_LOW_LISTS = NR_PCP_TYPES * (COSTLY_ORDER + 1); // 12
export const NR_PCP_LISTS = NR_LOW_LISTS + 2; // 14
/** CONFIG_PCP_BATCH_SCALE_MAX. */
const SCALE_MAX = 5;
const STATE = 8;

/** pcp_allowed_order(): does this order have lists? */
export const hasPcpLists = (order: number): boolean => order <= COSTLY_ORDER || order === PAGEBLOCK_ORDER;

/** order_to_pindex(). `mt` is 0..2. */
export function pcpIndex(order: number, mt: number): number {
  if (order <= COSTLY_ORDER) return NR_PCP_TYPES * order + mt;
  return NR_LOW_LISTS + (mt === MIGRATE_MOVABLE ? 1 : 0);
}

/** pindex_to_order(). */
export const pcpOrder = (pindex: number): number =>
  pindex < NR_LOW_LISTS ? Math.floor(pindex / NR_PCP_TYPES) : PAGEBLOCK_ORDER;

/** As the kernel's: in a zone where low is above high, high wins. */
const clamp = (n: number, low: number, high: number): number => Math.min(Math.max(n, low), high);

/** One list: a ring that doubles when it is full. Its pages are bounded by `high`, so that it doubles a few times only. */
class PageList {
  length = 0;
  #slots = new Int32Array(16);
  #head = 0;

  #grow(): void {
    const old = this.#slots;
    const slots = new Int32Array(old.length * 2);
    for (let k = 0; k < this.length; k++) slots[k] = old[(this.#head + k) & (old.length - 1)];
    this.#slots = slots;
    this.#head = 0;
  }

  at(k: number): number {
    return this.#slots[(this.#head + k) & (this.#slots.length - 1)];
  }

  addHead(page: number): void {
    if (this.length === this.#slots.length) this.#grow();
    this.#head = (this.#head - 1) & (this.#slots.length - 1);
    this.#slots[this.#head] = page;
    this.length++;
  }

  addTail(page: number): void {
    if (this.length === this.#slots.length) this.#grow();
    this.#slots[(this.#head + this.length) & (this.#slots.length - 1)] = page;
    this.length++;
  }

  takeHead(): number {
    const page = this.#slots[this.#head];
    this.#head = (this.#head + 1) & (this.#slots.length - 1);
    this.length--;
    return page;
  }

  takeTail(): number {
    this.length--;
    return this.#slots[(this.#head + this.length) & (this.#slots.length - 1)];
  }

  copyFrom(other: PageList): void {
    this.#slots = other.#slots.slice();
    this.#head = other.#head;
    this.length = other.length;
  }

  bytes(): number {
    return this.#slots.byteLength;
  }
}

export interface PerCpuPages extends PcpFront {
  /** What refresh_cpu_vm_stats() does each second: an idle CPU's limit falls by an eighth, what is above it goes back. */
  decay(): void;
  /** For tests and reports: the selected CPU's count, high and factors. */
  state(): { count: number; high: number; allocFactor: number; freeCount: number };
  /** @internal */
  readonly tables: { readonly lists: readonly PageList[]; readonly state: Int32Array };
}

const isPerCpuPages = (front: PcpFront): front is PerCpuPages => 'decay' in front;

/**
 * @param nr        free pages by bucket, as page-alloc.ts counts them: [0] tells when pressure ends
 * @param core      how to ask the area, and to give back to it
 * @param pressure  is the zone below its high mark?
 */
export function createPerCpuPages(
  area: FreeArea,
  nr: Float64Array,
  core: PageAllocCore,
  pressure: PcpPressure,
  config: { cpus: number; batch: number; high: number; tuning: PcpTuning },
): PerCpuPages {
  const { cpus, tuning } = config;
  const lists = Array.from({ length: cpus * NR_PCP_LISTS }, () => new PageList());
  const state = new Int32Array(cpus * STATE);
  let limits: Required<PcpLimits> = { batch: config.batch, high: config.high, highMax: config.high };
  let disabled = 0;
  let cpu = 0;
  // What counts now: the limits, or those of disabled lists.
  let batch = limits.batch;
  let highMin = limits.high;
  let highMax = limits.highMax;

  const full = ({ batch: b, high, highMax: most }: PcpLimits): Required<PcpLimits> => ({
    batch: b,
    high,
    highMax: tuning === 'fixed' ? high : (most ?? high),
  });
  const apply = (): void => {
    const on = disabled === 0;
    batch = on ? limits.batch : 1;
    highMin = on ? limits.high : 0;
    highMax = on ? limits.highMax : 0;
  };

  /** free_pcppages_bulk(): `wanted` pages or all, beginning with list `from`, list after list, from their tails. */
  function freeBulk(on: number, wanted: number, from: number): void {
    const s = on * STATE;
    let count = Math.min(state[s], wanted);
    let pindex = from - 1;
    while (count > 0) {
      do pindex = pindex + 1 === NR_PCP_LISTS ? 0 : pindex + 1;
      while (lists[on * NR_PCP_LISTS + pindex].length === 0);
      const list = lists[on * NR_PCP_LISTS + pindex];
      const order = pcpOrder(pindex);
      do {
        core.freeToArea(list.takeTail(), order);
        count -= 1 << order;
        state[s] -= 1 << order;
      } while (count > 0 && list.length > 0);
    }
  }

  /** nr_pcp_alloc(): chunks that a refill asks for. */
  function refillCount(s: number, order: number): number {
    if (tuning === 'fixed') return batch > 1 ? Math.max(batch >> order, 2) : batch;
    let high = clamp(state[s + 1], highMin, highMax);
    state[s + 1] = high;
    if (high < batch) return 1; // switched off
    let n = order > 0 ? batch : batch << state[s + 2];
    if (highMin !== highMax && !pressure.belowHigh) {
      high = Math.min(high + n, highMax);
      state[s + 1] = high;
    }
    if (order === 0) {
      const most = Math.max(high - state[s] - batch, batch);
      if (n <= most && state[s + 2] < SCALE_MAX) state[s + 2]++;
      n = Math.min(n, most);
    }
    return n > 1 ? Math.max(n >> order, 2) : n;
  }

  /** nr_pcp_high(): the limit that this free is held against; moves `high`. */
  function limitForFree(s: number, freeHigh: boolean): number {
    if (tuning === 'fixed') return freeHigh ? 0 : highMin;
    const high = clamp(state[s + 1], highMin, highMax);
    state[s + 1] = high;
    if (high === 0) return 0;
    if (freeHigh) {
      state[s + 1] = Math.max(high - (batch << SCALE_MAX), highMin);
      return 0;
    }
    if (highMin === highMax) return high;
    if (pressure.belowHigh) {
      state[s + 1] = Math.max(high - Math.max(state[s + 3], batch), highMin);
      return Math.max(state[s], highMin);
    }
    if (state[s] >= high) {
      const needed = state[s + 3] + batch;
      if (state[s + 1] < needed) state[s + 1] = clamp(needed, highMin, highMax);
    }
    return high;
  }

  /** nr_pcp_free(): pages that an overflow gives back. */
  function overflowCount(s: number, high: number, freeHigh: boolean): number {
    if (freeHigh) return tuning === 'fixed' ? state[s] : Math.min(state[s], batch << SCALE_MAX);
    if (high < batch) return 1; // switched off
    const most = high - batch;
    if (tuning === 'auto') return Math.min(Math.max(state[s + 3], batch), most);
    const n = batch << state[s + 3];
    if (n < most && state[s + 3] < SCALE_MAX) state[s + 3]++;
    return Math.min(Math.max(n, batch), most);
  }

  /** Is this free one of many of orders 1 to 3 in a row? Then they should merge, rather than wait here. */
  function isHighOrderRun(s: number, order: number): boolean {
    const few = order > 0 && order <= COSTLY_ORDER;
    if (tuning === 'fixed') return few && state[s + 3] > 0;
    const run = few && state[s + 3] >= batch && state[s + 4] !== 0 && state[s] >= batch;
    state[s + 4] = few ? 1 : 0;
    if (state[s + 3] < batch << SCALE_MAX) state[s + 3] += 1 << order;
    return run;
  }

  function free(i: number, order: number): void {
    if (!hasPcpLists(order)) return core.freeToArea(i, order);
    let mt: number = area.typeOf(i);
    if (mt >= NR_PCP_TYPES) {
      if (mt === MIGRATE_ISOLATE) return core.freeToArea(i, order);
      mt = MIGRATE_MOVABLE;
    }
    const s = cpu * STATE;
    state[s + 2] >>= 1;
    const pindex = pcpIndex(order, mt);
    lists[cpu * NR_PCP_LISTS + pindex].addHead(i);
    state[s] += 1 << order;
    const freeHigh = isHighOrderRun(s, order);
    const high = limitForFree(s, freeHigh);
    if (state[s] < high) return;
    freeBulk(cpu, overflowCount(s, high, freeHigh), pindex);
    if (pressure.belowHigh && nr[0] > pressure.highMark) pressure.belowHigh = false;
  }

  function refill(list: PageList, order: number, mt: number, flags: number): void {
    const s = cpu * STATE;
    const want = refillCount(s, order);
    for (let n = 0; n < want; n++) {
      const i = core.rmqueueNext(order, mt, flags, n === 0);
      if (i < 0) return;
      list.addTail(i);
      state[s] += 1 << order;
    }
  }

  function alloc(order: number, mt: number, flags = 0): number {
    if (hasPcpLists(order) && mt < NR_PCP_TYPES) {
      const s = cpu * STATE;
      state[s + 3] >>= 1;
      const list = lists[cpu * NR_PCP_LISTS + pcpIndex(order, mt)];
      if (list.length === 0) refill(list, order, mt, flags);
      if (list.length > 0) {
        state[s] -= 1 << order;
        return list.takeHead();
      }
    }
    const i = core.rmqueueBuddy(order, mt, flags);
    if (i >= 0 || (flags & 5) !== 0 || drain() === 0) return i; // ALLOC_NOFRAGMENT, ALLOC_KEEP_PCP
    return core.rmqueueBuddy(order, mt, flags);
  }

  /** drain_pages_zone() of every CPU. */
  function drain(): number {
    let moved = 0;
    for (let on = 0; on < cpus; on++) {
      while (state[on * STATE] > 0) {
        const before = state[on * STATE];
        freeBulk(on, batch << SCALE_MAX, 0);
        moved += before - state[on * STATE];
      }
    }
    return moved;
  }

  return {
    cpus,
    tables: { lists, state },
    alloc,
    free,
    drain,
    useCpu(n) {
      cpu = n;
    },
    disable() {
      disabled++;
      apply();
      drain();
    },
    enable() {
      disabled--;
      apply();
    },
    setPcp(next) {
      limits = full(next);
      apply();
    },
    settings: () => ({ limits, cpu, disabled }),
    pcpPages() {
      let n = 0;
      for (let on = 0; on < cpus; on++) n += state[on * STATE];
      return n;
    },
    forEachPcp(each) {
      lists.forEach((list, k) => {
        const pindex = k % NR_PCP_LISTS;
        const order = pcpOrder(pindex);
        const mt = pindex < NR_LOW_LISTS ? pindex % NR_PCP_TYPES : pindex - NR_LOW_LISTS;
        for (let j = 0; j < list.length; j++) each(Math.floor(k / NR_PCP_LISTS), mt, list.at(j), order);
      });
    },
    copyPcp(other) {
      const from = other.front;
      assert(isPerCpuPages(from) && from.cpus === cpus, 'copyFrom needs the same lists', { cpus });
      lists.forEach((list, k) => {
        list.copyFrom(from.tables.lists[k]);
      });
      state.set(from.tables.state);
      const settings = from.settings();
      limits = full(settings.limits);
      cpu = settings.cpu;
      disabled = settings.disabled;
      apply();
    },
    bytes: () => area.bytes() + state.byteLength + lists.reduce((n, l) => n + l.bytes(), 0),
    decay() {
      if (tuning === 'fixed') return;
      for (let on = 0; on < cpus; on++) {
        const s = on * STATE;
        if (state[s + 1] > highMin) {
          const high = state[s + 1];
          state[s + 1] = Math.max(state[s] - (batch << SCALE_MAX), high - (high >> 3), highMin);
        }
        if (state[s] > state[s + 1]) freeBulk(on, state[s] - state[s + 1], 0);
      }
    },
    state() {
      const s = cpu * STATE;
      return { count: state[s], high: state[s + 1], allocFactor: state[s + 2], freeCount: state[s + 3] };
    },
  };
}
