// Hyper-V's memory hot-add: the host gives pages, not blocks; the guest adds blocks around them and uses what is backed.
//
//   host message      pages [start, start + count)   and, if it likes, the region that they may grow into
//
//   region    │■■■■■■■■■■■■■■■■■■│□□□□□□□□│              ■ covered: backed, in use when online   □ added, kept out
//             start     gap       covered   added    end  · not added: blocks are added as far as the pages reach
//                     │····│      end       end           gap: pages before the next message's start, never backed
//
//   message   1 pages in blocks that are there: covered, and if their block is online, in use at once
//             2 pages beyond: blocks are added, one a step; after each it waits until it is online, at most 5 s
//             3 response: pages covered. None covered: the host may try again (result 0), but after an EEXIST never (1)
//
// A driver without a host region makes one: the pages' start rounded down to a block, their count rounded up. A message
// inside of or right behind a region belongs to it; what reaches beyond its end makes it longer.
//
// Invariants: HS1 a frame of an online block of a region is kept out if and only if it is not backed; HS2 the sum of all
// answers is what is covered.
//
// Follows Linux v6.12 drivers/hv/hv_balloon.c: hot_add_req(), process_hot_add(), pfn_covered(), handle_pg_range(),
// hv_mem_hot_add(), hv_online_page(), hv_memory_notifier() (spec 5.2). This is its hot-add half: ballooning and the status
// that it posts each second are left out.

import { assert } from '#base/assert';
import { ok, type Result } from '#base/result';
import { type BlockId, type HolderId, type NodeId, type Order, type Pfn, toOrder, toPfn } from '#base/units';
import { MAX_ORDER } from '../geometry.ts';
import type { Machine } from '../machine.ts';
import type { Notifier } from '../memory-hotplug.ts';
import { genericOnlinePage, setOnlinePageCallback } from '../online-callback.ts';
import type { Refusal } from '../refusal.ts';
import { KIND_MASK, KIND_NONE } from '../section.ts';

export const ONLINE_WAIT_MS = 5000;

export type PageRange = { readonly start: Pfn; readonly count: number };

/** DM_MEM_HOT_ADD_RESPONSE. */
export type HotAddResponse = {
  /** Pages of the message that are covered now. */
  readonly pages: number;
  /** 0: the host may try again. 1 with no pages: it will not. */
  readonly result: 0 | 1;
};

/** struct hv_hotadd_state: half-open ranges of frames. */
type Region = {
  readonly start: number;
  /** Blocks are added up to here. */
  added: number;
  readonly coveredStart: number;
  coveredEnd: number;
  end: number;
  readonly gaps: { readonly start: number; readonly end: number }[];
};

export type HvActivity = 'idle' | 'working' | 'waiting';

export class HvHotAdd {
  /** Whose the frames are that are not backed. */
  readonly holder: HolderId;
  /** num_pages_added, num_pages_onlined of the driver. */
  pagesAdded = 0;
  pagesOnlined = 0;
  onResponse: ((response: HotAddResponse) => void) | undefined;

  readonly #m: Machine;
  readonly #node: NodeId;
  readonly #hostRegions: boolean;
  readonly #regions: Region[] = [];
  #doHotAdd = true;
  #run: Generator<'add' | 'wait', HotAddResponse> | undefined;
  #nowMs = 0;
  /** Set while it waits for a block to come online. */
  #waitUntilMs: number | undefined;

  /**
   * @param hostRegions  the host says in each message which region the pages may grow into
   * @returns EINVAL when another driver has the online callback
   */
  static probe(
    m: Machine,
    options: { readonly name: string; readonly node: NodeId; readonly hostRegions?: boolean },
  ): Result<HvHotAdd, Refusal> {
    const hv = new HvHotAdd(m, options);
    const set = setOnlinePageCallback(m, (_m, pfn, order) => hv.#onlinePage(pfn, order));
    if (!set.ok) return set;
    m.notifiers.push(hv.#notifier(options.name));
    return ok(hv);
  }

  private constructor(m: Machine, options: { name: string; node: NodeId; hostRegions?: boolean }) {
    this.#m = m;
    this.#node = options.node;
    this.#hostRegions = options.hostRegions ?? false;
    this.holder = m.addHolder({ class: 'unplugged', name: `${options.name}: not backed`, node: options.node });
  }

  // ---------------------------------------------------------------------------------------------------- one message

  get activity(): HvActivity {
    if (this.#run === undefined) return 'idle';
    return this.#waitUntilMs === undefined || this.#nowMs >= this.#waitUntilMs ? 'working' : 'waiting';
  }

  /** It is `nowMs` now. */
  tick(nowMs: number): void {
    assert(nowMs >= this.#nowMs, 'time goes forward', { nowMs, was: this.#nowMs });
    this.#nowMs = nowMs;
  }

  /** The host gives pages. One message at a time: the host waits for the response. */
  hotAdd(pages: PageRange, region?: PageRange): void {
    assert(this.#run === undefined, 'the last message was not answered yet', pages);
    assert((region !== undefined) === this.#hostRegions, 'a host names regions always or never', { region });
    this.#run = this.#request(pages, region);
  }

  /** One small piece of work: at most one block is added. */
  step(): HvActivity {
    if (this.activity !== 'working') return this.activity;
    if (this.#m.offlinesUnderWay > 0 || this.#m.hotplug.lock.taken) return 'waiting';
    this.#waitUntilMs = undefined;
    const r = (this.#run as Generator<'add' | 'wait', HotAddResponse>).next(); // 'working' says that there is one
    if (r.done === true) {
      this.#run = undefined;
      this.onResponse?.(r.value);
    } else if (r.value === 'wait') {
      this.#waitUntilMs = this.#nowMs + ONLINE_WAIT_MS;
    }
    return this.activity;
  }

  /** Steps until the message is answered, or a block is to come online. */
  settle(): HvActivity {
    while (this.activity === 'working' && this.step() === 'working');
    return this.activity;
  }

  *#request(pages: PageRange, named: PageRange | undefined): Generator<'add' | 'wait', HotAddResponse> {
    const covered = this.#doHotAdd && pages.count > 0 ? yield* this.#process(pages, named) : 0;
    this.pagesAdded += covered;
    if (covered === 0) this.#m.onLog?.({ level: 'warn', text: 'hv_balloon: Memory hot add failed' });
    return { pages: covered, result: covered > 0 || !this.#doHotAdd ? 1 : 0 };
  }

  *#process(pages: PageRange, named: PageRange | undefined): Generator<'add' | 'wait', number> {
    const chunk = this.#m.blockPages;
    const { start, count } = pages;
    const known = named === undefined ? this.#regionFor(start) : undefined;
    if (known !== undefined) {
      if (known.coveredEnd !== start) known.gaps.push({ start: known.coveredEnd, end: start });
      known.coveredEnd = start;
      const beyond = Math.max(0, start + count - known.end);
      known.end += Math.ceil(beyond / chunk) * chunk;
      return yield* this.#cover(known, start, count);
    }
    const from = named?.start ?? start - (start % chunk);
    const size = named?.count ?? Math.ceil(count / chunk) * chunk;
    const made = { start: from, added: from, coveredStart: start, coveredEnd: start, end: from + size, gaps: [] };
    if (size > 0) this.#regions.push(made);
    const region = this.#regionFor(start);
    return region === undefined ? 0 : yield* this.#cover(region, start, count);
  }

  #regionFor(pfn: number): Region | undefined {
    return this.#regions.find((r) => r.start <= pfn && pfn < r.end);
  }

  /** Linux: handle_pg_range(). @returns pages that are covered and were not */
  *#cover(region: Region, start: number, count: number): Generator<'add' | 'wait', number> {
    const before = region.coveredEnd;
    let left = count;
    if (start < region.added) {
      const here = Math.min(region.added - start, left);
      region.coveredEnd += here;
      left -= here;
      if (start > region.start && this.#m.poolAt(this.#m.sections.indexOf(toPfn(start))) !== undefined) {
        this.#bringOnline(start, start + here);
      }
    }
    if (region.added < region.end && left > 0) {
      const chunk = this.#m.blockPages;
      const room = region.end - region.added;
      const size = left <= room ? Math.ceil(left / chunk) * chunk : room;
      yield* this.#addBlocks(region, size, Math.min(left, size));
    }
    return region.coveredEnd - before;
  }

  *#addBlocks(region: Region, size: number, pages: number): Generator<'add' | 'wait', void> {
    const m = this.#m;
    let left = pages;
    for (let k = 0; k < size / m.blockPages; k++) {
      yield 'add';
      const start = region.added;
      const backed = Math.min(left, m.blockPages);
      left -= backed;
      region.added += m.blockPages;
      region.coveredEnd += backed;
      const range = { start: toPfn(start), end: toPfn(start + m.blockPages) };
      const r = m.addMemory(range, this.#node, { merge: true });
      if (!r.ok) {
        m.onLog?.({ level: 'warn', text: `hv_balloon: hot_add memory failed error is ${r.error.errno}` });
        if (r.error.errno === 'EEXIST') this.#doHotAdd = false; // for good
        region.added -= m.blockPages;
        region.coveredEnd -= backed;
        return;
      }
      if (r.value.onlined.length === 0) yield 'wait';
    }
  }

  // ---------------------------------------------------------------------------------------------------------- frames

  #isBacked(r: Region, pfn: number): boolean {
    return r.coveredStart <= pfn && pfn < r.coveredEnd && !r.gaps.some((g) => g.start <= pfn && pfn < g.end);
  }

  /** 2^order frames come online: what is not backed stays out. Memory of no region comes online as ever. */
  #onlinePage(pfn: Pfn, order: Order): void {
    const region = this.#regionFor(pfn);
    if (region === undefined) return genericOnlinePage(this.#m, pfn, order);
    const end = pfn + 2 ** order;
    for (let at: number = pfn; at < end; ) {
      const backed = this.#isBacked(region, at);
      let to = at + 1;
      while (to < end && this.#isBacked(region, to) === backed) to++;
      if (backed) this.#use(at, to);
      else this.#m.place(this.holder, toPfn(at), toPfn(to), 0); // one by one, as they will be backed
      at = to;
    }
  }

  /** Frames that nobody has become free, in the largest aligned pieces. */
  #use(start: number, end: number): void {
    for (let pfn = start; pfn < end; ) {
      let order = 0;
      while (order < MAX_ORDER && pfn % 2 ** (order + 1) === 0 && pfn + 2 ** (order + 1) <= end) order++;
      genericOnlinePage(this.#m, toPfn(pfn), toOrder(order));
      pfn += 2 ** order;
    }
    this.pagesOnlined += end - start;
  }

  /** Frames that were kept out are backed now. Those of a block that is not online come with it. */
  #bringOnline(start: number, end: number): void {
    const { sections, holders } = this.#m;
    for (let pfn = start; pfn < end; ) {
      let to = pfn;
      for (; to < end; to++) {
        const index = sections.indexOf(toPfn(to));
        if (this.#m.poolAt(index) === undefined || (sections.metaAt(index) & KIND_MASK) === KIND_NONE) break;
        const slot = sections.ownerAt(index);
        if (holders.holderOf(slot) !== this.holder) break;
        this.#m.unhold(index, 0);
        sections.vacate(index, 0);
      }
      if (to > pfn) this.#use(pfn, to);
      pfn = to + 1;
    }
  }

  // ------------------------------------------------------------------------------------------------------- listeners

  #notifier(name: string): Notifier {
    const range = (block: BlockId) => ({ start: block * this.#m.blockPages, end: (block + 1) * this.#m.blockPages });
    return {
      name,
      online: () => {
        this.#waitUntilMs = undefined;
      },
      cancelOnline: () => {
        this.#waitUntilMs = undefined;
      },
      // Linux: nobody drops the reference of a page that is not backed, so that its block cannot go: EBUSY.
      goingOffline: (block) => {
        const { start, end } = range(block);
        const region = this.#regionFor(start);
        if (region === undefined) return undefined;
        for (let pfn = start; pfn < end; pfn++) if (!this.#isBacked(region, pfn)) return 'EBUSY';
        return undefined;
      },
      offline: (block) => {
        const { start, end } = range(block);
        if (this.#regionFor(start) !== undefined) this.pagesOnlined -= end - start;
      },
    };
  }

  /** HS1, HS2; empty when sound. Cost O(frames of the regions). */
  check(): string[] {
    const { sections, holders } = this.#m;
    const wrong: string[] = [];
    let online = 0;
    let kept = 0;
    let covered = 0;
    for (const r of this.#regions) {
      covered += r.gaps.reduce((n, g) => n - (g.end - g.start), r.coveredEnd - r.coveredStart);
      for (let pfn = r.start; pfn < r.added; pfn++) {
        const backed = this.#isBacked(r, pfn);
        const index = sections.indexOf(toPfn(pfn));
        if (index < 0 || this.#m.poolAt(index) === undefined) continue;
        const a = sections.allocationAt(index);
        const mine = a !== undefined && holders.holderOf(sections.ownerAt(a.head)) === this.holder;
        if (mine === backed) wrong.push(`HS1 frame ${pfn}: backed ${backed}, kept out ${mine}`);
        if (mine) kept++;
        else online++;
      }
    }
    if (kept !== holders.pages[this.holder]) wrong.push(`HS1 ${holders.pages[this.holder]} kept out, found ${kept}`);
    if (online !== this.pagesOnlined) wrong.push(`HS2 ${this.pagesOnlined} online, found ${online}`);
    if (covered !== this.pagesAdded && this.#run === undefined) {
      wrong.push(`HS2 ${this.pagesAdded} answered, ${covered} covered`);
    }
    return wrong;
  }
}
