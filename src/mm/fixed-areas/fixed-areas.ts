// Fixed areas: memory that has to keep its physical address, for those who ask for it by name and give it up on request.
//
//   fixedAreas(m).register({ name: 'nic0', abi: 1, caps: ['relinquish', 'quiesce'], maxQuiesceMs: 20, ops })
//                .request('nic0', { bytes, rule, reason }) ──> an area: HELD, with its segments
//                .relinquish(range, { deadlineMs }) ──> all areas of the range have moved, or none has
//                .release(handle), .reacquire(handle)
//
// Only what needs a constant address is asked for here; all else is movable, or not, by its class. The frames of an area are
// allocations of its driver's holder (class `driver`, kernel class D): whoever looks at a frame sees whose it is.
//
//   confinement   a driver without `relinquish` is not compatible with memory hotplug. It gets frames of areas that were
//                 marked non-removable, and of nothing else: what it holds stands in the way of no other block
//
// The rule of a request holds for the segments of that area; `reacquireRule`, if it differs, for every place afterwards.
// All verbs are all or nothing. Errno: EINVAL, EEXIST, ENXIO, ENOSPC, ESTALE, EBUSY, EOPNOTSUPP, ETIMEDOUT, EALREADY.
//
// Rules: docs/spec/fixed-areas.md. Spec 9.E. Hansen 2005, step 2: "Require that drivers specifically request for areas which
// must retain constant physical addresses. Driver must relinquish control of such areas upon request. Can be worked around by
// hypervisors."

import { err, ok, type Result } from '#base/result';
import { type HolderId, toPfn } from '#base/units';
import { MIGRATE_ISOLATE, PAGE_SIZE, PAGEBLOCK_PAGES } from '../geometry.ts';
import { kernelClassOf } from '../kernel-class.ts';
import type { Machine } from '../machine.ts';
import { isolatePageblock, unisolatePageblock } from '../page-isolation.ts';
import type { Pool } from '../pool.ts';
import { type Extent, extent, normalise } from '../pools/dma-extent.ts';
import { type DmaForm, type DmaRule, formOfRule } from '../pools/dma-rule.ts';
import { type BlockerCause, type Refusal, refusal } from '../refusal.ts';
import {
  type AreaRow,
  type AreaTable,
  areaOf,
  areasIn,
  areaTableIfAny,
  areaTableOf,
  type DriverRow,
  noteRefused,
  type Refused,
  refusedOn,
  type Session,
} from './area-table.ts';
import { type AreaHandle, type DriverSpec, type FixedArea, wrongWith } from './driver.ts';
import { hold, letGo, takeConfined, takePlace } from './place-area.ts';
import {
  abortSession,
  beginSession,
  blockersOf,
  canLeave,
  commitSession,
  driverOf,
  dropQuiet,
  expireSessions,
  type GiveUpOptions,
  giveUp,
  hostHome,
  indexArea,
  type RelinquishOptions,
  reacquireInto,
  TABLE_CLOCK,
  unindexArea,
} from './relinquish.ts';

export type AreaRequest = {
  readonly bytes: number;
  /** What the device asks of addresses; default nothing. */
  readonly rule?: DmaRule;
  /** What it is for, in a few words. */
  readonly reason: string;
  /** For every place but the first; default: the rule. */
  readonly reacquireRule?: DmaRule;
};

export type Relinquished = {
  /** Areas that lie elsewhere, were given up, or are backed by other memory. Ids, ascending. */
  readonly moved: readonly number[];
  readonly released: readonly number[];
  readonly workedAround: readonly number[];
};

/** Why an area can leave, or not, as things stand; for explain and for people. */
export type AreaVerdict = {
  readonly area: FixedArea;
  readonly verdict: 'yes' | 'no';
  readonly why: string;
};

export const fixedAreas = (m: Machine): FixedAreas => new FixedAreas(m);

const no = (reason: Parameters<typeof refusal>[0], message: string): { readonly ok: false; readonly error: Refusal } =>
  err(refusal(reason, message));

export class FixedAreas {
  readonly #m: Machine;

  constructor(m: Machine) {
    this.#m = m;
  }

  // ------------------------------------------------------------------------------------------------------ drivers

  /**
   * A driver makes itself known. Frames that it has already, as `holder`, become areas, one for each allocation: any rule will
   * do for them, since nobody said which.
   *
   * @returns the areas that it had; bad-request (EINVAL) for a registration that is none, exists (EEXIST) for a name that is
   *   taken. Cost O(its allocations)
   */
  register(spec: DriverSpec): Result<readonly FixedArea[], Refusal> {
    const m = this.#m;
    const t = areaTableOf(m);
    const wrong = wrongWith(spec);
    if (wrong !== undefined) return no('bad-request', wrong);
    if (t.drivers.has(spec.name)) return no('exists', `a driver ${spec.name} is registered already`);
    const had = spec.holder === undefined ? undefined : m.holders.specs[spec.holder];
    if (spec.holder !== undefined && (had === undefined || kernelClassOf(had) !== 'D')) {
      return no('bad-request', `${spec.name}: holder ${spec.holder} is no driver's`);
    }
    if ([...t.drivers.values()].some((d) => d.holder === spec.holder)) {
      return no('exists', `${spec.name}: another driver registered holder ${spec.holder}`);
    }
    const node = spec.node === undefined ? undefined : { node: spec.node };
    const holder = spec.holder ?? m.addHolder({ class: 'driver', name: spec.name, kernel: 'D', ...node });
    const { name, maxQuiesceMs, ops } = spec;
    const caps = new Set(spec.caps);
    t.drivers.set(name, { name, caps, maxQuiesceMs, ops, holder, hostHolder: -1, dead: false });
    return ok(spec.holder === undefined ? [] : this.#adopt(name, spec.holder));
  }

  #adopt(driver: string, holder: HolderId): FixedArea[] {
    const form = formOfRule({});
    if (!form.ok) return []; // no rule at all has a form
    const out: FixedArea[] = [];
    this.#m.forEachFrameOf(holder, (head, order) => {
      const pages = 2 ** order;
      const row = this.#add(
        driver,
        { form: form.value, again: form.value, pages, reason: 'had before it registered' },
        [extent(head, head + pages)],
      );
      out.push(areaOf(row));
    });
    return out;
  }

  /**
   * The driver is unloaded: its bus has stopped its device, whether the driver lives or has died. All its areas are free.
   * @returns pages that were freed; bad-request (EINVAL) without such a driver, busy (EBUSY) while one of them is being
   *   relinquished
   */
  unregister(name: string): Result<number, Refusal> {
    const t = areaTableOf(this.#m);
    if (!t.drivers.has(name)) return no('bad-request', `there is no driver ${name}`);
    const mine = [...t.areas.values()].filter((a) => a.driver === name);
    const busy = mine.find((a) => this.#underWay(a));
    if (busy !== undefined) return no('busy', `area ${busy.id} of ${name} is being relinquished`);
    let pages = 0;
    for (const a of mine) {
      pages += a.segments.length > 0 ? a.pages : 0;
      this.#free(a);
    }
    t.drivers.delete(name);
    return ok(pages);
  }

  // -------------------------------------------------------------------------------------------------------- areas

  /**
   * An area for a driver: whole pages at addresses that keep the rule.
   *
   * @returns the area, HELD; bad-request (EINVAL) without such a driver or a size; bad-argument (EINVAL) for a rule that is
   *   none; no-window (ENOSPC) if there is no place; incompatible (ENXIO) for a driver without `relinquish` where no
   *   non-removable area has room. Cost: place-area.ts
   */
  request(driver: string, { bytes, rule = {}, reason, reacquireRule }: AreaRequest): Result<FixedArea, Refusal> {
    const m = this.#m;
    const t = areaTableOf(m);
    const d = t.drivers.get(driver);
    if (d === undefined) return no('bad-request', `there is no driver ${driver}`);
    if (d.dead) return no('bad-request', `${driver} has died`);
    if (!Number.isSafeInteger(bytes) || bytes <= 0) return no('bad-request', `an area of ${bytes} bytes is none`);
    const form = formOfRule(near(m, d, rule));
    if (!form.ok) return form;
    const again = reacquireRule === undefined ? form : formOfRule(near(m, d, reacquireRule));
    if (!again.ok) return again;
    const pages = Math.ceil(bytes / PAGE_SIZE);
    const confined = !d.caps.has('relinquish');
    const place = confined
      ? takeConfined(m, d.holder, form.value, pages, t.nonRemovable)
      : takePlace(m, d.holder, form.value, pages);
    if (place === undefined) {
      if (!confined) return no('no-window', `no ${pages} pages for ${driver} (${reason}) keep its rule`);
      const message =
        `${driver} is not compatible with memory hotplug: it has no relinquish, and no area that is marked ` +
        `non-removable has ${pages} pages for it (${reason})`;
      noteRefused(m, { at: t.now, driver, area: 0, outcome: 'REFUSED', errno: 'ENXIO', why: message });
      return no('incompatible', message);
    }
    hold(m, d.holder, place);
    return ok(areaOf(this.#add(driver, { form: form.value, again: again.value, pages, reason, confined }, place)));
  }

  #add(
    driver: string,
    what: { form: DmaForm; again: DmaForm; pages: number; reason: string; confined?: boolean },
    segments: readonly Extent[],
  ): AreaRow {
    const t = areaTableOf(this.#m);
    const row: AreaRow = {
      ...what,
      id: t.nextArea++,
      generation: 1,
      driver,
      confined: what.confined ?? false,
      state: 'HELD',
      segments,
      outcome: undefined,
      workedAround: false,
      quiescingSince: -1,
    };
    t.areas.set(row.id, row);
    indexArea(this.#m, row);
    return row;
  }

  /** The area that a handle names; undefined when it is stale. Cost O(1). */
  get(handle: AreaHandle): FixedArea | undefined {
    const a = this.#row(handle);
    return a === undefined ? undefined : areaOf(a);
  }

  #row(handle: AreaHandle): AreaRow | undefined {
    const a = areaTableIfAny(this.#m)?.areas.get(handle.id);
    return a?.generation === handle.generation ? a : undefined;
  }

  /** Is a session at work on it? */
  #underWay(a: AreaRow): boolean {
    const { sessions } = areaTableOf(this.#m);
    return a.state === 'QUIESCING' || [...sessions.values()].some((s) => s.done.some((x) => x.id === a.id));
  }

  /**
   * The driver gives an area back for good; its device is quiet.
   * @returns stale-handle (ESTALE); busy (EBUSY) while it is being relinquished
   */
  release(handle: AreaHandle): Result<void, Refusal> {
    const a = this.#row(handle);
    if (a === undefined) return stale(handle);
    if (this.#underWay(a)) return no('busy', `area ${a.id} of ${a.driver} is being relinquished`);
    this.#free(a);
    return ok(undefined);
  }

  /** Frames of a block that is offline (worked around) are forgotten; those that left with their DIMM are gone already. */
  #free(a: AreaRow): void {
    const m = this.#m;
    const t = areaTableOf(m);
    if (a.workedAround) {
      t.counts.workedAround--;
      for (const s of a.segments) {
        for (let pfn: number = s.start; pfn < s.end; ) {
          const index = m.sections.indexOf(toPfn(pfn));
          const piece = index < 0 ? undefined : m.sections.allocationAt(index);
          t.at.delete(pfn);
          pfn += piece === undefined ? 1 : 2 ** piece.order;
          if (piece === undefined) continue;
          if (m.poolAt(index) === undefined) m.forget(index);
          else m.free(m.sections.pfnOf(index));
        }
      }
    } else if (a.segments.length > 0) {
      unindexArea(m, a);
      letGo(m, a.segments);
    }
    t.areas.delete(a.id);
  }

  /**
   * Frames again for an area that was RELEASED, where its reacquireRule allows.
   *
   * @returns the area under its new handle; stale-handle (ESTALE), not-offline never; busy (EBUSY) for one that is held;
   *   no-relinquish (EOPNOTSUPP) without the cap; no-window (ENOSPC) without room; relinquish if the driver will not
   */
  reacquire(handle: AreaHandle): Result<FixedArea, Refusal> {
    const m = this.#m;
    const a = this.#row(handle);
    if (a === undefined) return stale(handle);
    if (a.state !== 'RELEASED' || this.#underWay(a)) return no('busy', `area ${a.id} of ${a.driver} is not released`);
    const d = driverOf(m, a);
    if (!d.caps.has('reacquire')) return no('no-relinquish', `${d.name} cannot reacquire areas`);
    if (m.faultAt?.('drivers.reacquire') === true) return no('fault', `${d.name} was not reached`);
    const said = reacquireInto(m, a, d, undefined, a.generation);
    if (said === 'done') {
      areaTableOf(m).counts.reacquired++;
      return ok(areaOf(a));
    }
    if (said === 'no-target') return no('no-window', `no ${a.pages} pages for ${d.name} (${a.reason}) keep its rule`);
    const why = said === 'dead' ? 'it has died' : said.why;
    return err({ ...refusal('relinquish', `${d.name} does not take area ${a.id} again: ${why}`), ...errnoOf(said) });
  }

  // ------------------------------------------------------------------------------------------- non-removable areas

  /**
   * Frames [start, end) are for drivers that give nothing up, too: whole pageblocks. Who else has frames there may stay.
   * @returns bad-argument (EINVAL) for a range that is none
   */
  markNonRemovable({ start, end }: Extent): Result<void, Refusal> {
    if (!(start >= 0 && start < end) || start % PAGEBLOCK_PAGES !== 0 || end % PAGEBLOCK_PAGES !== 0) {
      return no('bad-argument', `[${start}, ${end}) are no whole pageblocks`);
    }
    const t = areaTableOf(this.#m);
    t.nonRemovable = normalise([...t.nonRemovable, extent(start, end)]);
    return ok(undefined);
  }

  /** Where drivers that give nothing up may hold frames; ascending and apart. */
  get nonRemovable(): readonly Extent[] {
    return areaTableIfAny(this.#m)?.nonRemovable ?? [];
  }

  // ---------------------------------------------------------------------------------------------------- relinquish

  /**
   * All areas with a frame in [start, end) leave it, or none does. Its pageblocks are isolated meanwhile, so that nobody gets
   * a frame of it, callbacks of drivers included.
   *
   * @returns what became of them; nested (EALREADY); no-relinquish (EOPNOTSUPP), relinquish (the driver's errno), deadline
   *   (ETIMEDOUT), no-target (EINTR), fault (EIO), in-use (EBUSY, pinned), each with the frames in the way: then all is as it
   *   was. Time: at most deadlineMs and one pollMs. Cost O(areas + pages that move)
   */
  relinquish(range: Extent, options: RelinquishOptions): Result<Relinquished, Refusal> {
    const m = this.#m;
    const t = areaTableOf(m);
    const clock = options.clock ?? TABLE_CLOCK;
    const nested = [...t.sessions.values()].find((s) => s.start < range.end && range.start < s.end);
    if (nested !== undefined) return no('nested', 'frames of the range are being relinquished');
    const undo = isolate(m, range);
    const begun = beginSession(m, range, options);
    if (!begun.ok) {
      undo();
      return begun;
    }
    const session = begun.value;
    const o = { clock, pollMs: options.pollMs ?? 1, atOnce: false };
    const failed = phaseTwo(m, session, o);
    if (failed !== undefined) {
      const evidence = blockersOf(m, failed.a, failed.cause);
      abortSession(m, session);
      undo();
      return err(refusalFor(failed.a, failed.cause, evidence));
    }
    // ═══ Point of no return: nothing below can fail. ═══
    const ids = (...how: readonly string[]): number[] =>
      session.done
        .filter((x) => how.includes(x.how))
        .map((x) => x.id)
        .sort((x, y) => x - y);
    const report = { moved: ids('moved', 'switched'), released: ids('dropped'), workedAround: ids('host') };
    commitSession(m, session);
    undo();
    return ok(report);
  }

  /** Ends what is under way beyond its deadline: all is put back. For worlds whose time passes elsewhere. @returns sessions */
  expire(now: number): number {
    return areaTableIfAny(this.#m) === undefined ? 0 : expireSessions(this.#m, now);
  }

  /**
   * The host gives the frames of an area that it worked around their own memory again.
   * @returns stale-handle (ESTALE); not-online (EINVAL) while some of them are offline or gone
   */
  home(handle: AreaHandle): Result<void, Refusal> {
    const m = this.#m;
    const a = this.#row(handle);
    if (a === undefined) return stale(handle);
    if (!a.workedAround) return ok(undefined);
    const here = a.segments.every((s) => {
      for (let pfn: number = s.start; pfn < s.end; pfn++) {
        const f = m.frame(toPfn(pfn));
        if (f.state !== 'used' || f.holder !== driverOf(m, a).hostHolder) return false;
      }
      return true;
    });
    if (!here) return no('not-online', `frames of area ${a.id} of ${a.driver} are offline`);
    hostHome(m, a);
    return ok(undefined);
  }

  // ----------------------------------------------------------------------------------------------------- questions

  drivers(): readonly DriverRow[] {
    return [...(areaTableIfAny(this.#m)?.drivers.values() ?? [])];
  }

  /** All areas, by id. */
  areas(): readonly Readonly<AreaRow>[] {
    return [...(areaTableIfAny(this.#m)?.areas.values() ?? [])];
  }

  /** Areas of drivers that give nothing up. */
  incompatible(): readonly Readonly<AreaRow>[] {
    return this.areas().filter((a) => !driverOf(this.#m, a).caps.has('relinquish'));
  }

  counts(): Readonly<AreaTable['counts']> {
    return areaTableOf(this.#m).counts;
  }

  /** What drivers refused, the oldest first. */
  refused(): readonly Refused[] {
    return refusedOn(this.#m);
  }

  /** Of each area with a frame in the range: could it leave as things stand, and why, or why not. Asks no driver. */
  explain(range: Extent): readonly AreaVerdict[] {
    const m = this.#m;
    const t = areaTableIfAny(m);
    if (t === undefined) return [];
    return areasIn(t, range.start, range.end).map((a) => {
      const d = driverOf(m, a);
      return { area: areaOf(a), verdict: canLeave(d, 'ask') ? 'yes' : 'no', why: whyOf(m, a, d) };
    });
  }
}

/**
 * Areas in [start, end) whose addresses the host backs with other memory: while they are held no memory may appear there.
 * Cost O(areas).
 */
export function workedAroundIn(m: Machine, start: number, end: number): readonly Readonly<AreaRow>[] {
  const t = areaTableIfAny(m);
  return t === undefined || t.counts.workedAround === 0 ? [] : areasIn(t, start, end).filter((a) => a.workedAround);
}

/** The device's node is preferred where a rule names none. */
const near = (m: Machine, d: DriverRow, rule: DmaRule): DmaRule => {
  const node = m.holders.specs[d.holder]?.node ?? -1;
  return rule.node === undefined && node >= 0 ? { ...rule, node: { nodes: [node], strength: 'preferred' } } : rule;
};

function whyOf(m: Machine, a: AreaRow, d: DriverRow): string {
  if (a.workedAround) return 'the host backs it with other memory';
  const last = refusedOn(m).findLast((r) => r.area === a.id);
  const said =
    last === undefined ? '' : `; it ${last.outcome === 'TIMEOUT' ? 'was too late' : 'refused'} before: ${last.why}`;
  if (d.caps.has('dmaFault')) return `an IOMMU can switch it${said}`;
  if (d.caps.has('hostRemap') && (d.dead || !d.caps.has('relinquish'))) return `its host can work around it${said}`;
  if (d.dead) return `${d.name} has died${said}`;
  return d.caps.has('relinquish') ? `${d.name} gives it up on request${said}` : `${d.name} has no relinquish`;
}

const stale = (handle: AreaHandle): { readonly ok: false; readonly error: Refusal } =>
  no('stale-handle', `handle ${handle.id}.${handle.generation} was released, or its area has moved`);

const errnoOf = (said: unknown): { errno: Refusal['errno'] } | undefined =>
  typeof said === 'object' && said !== null && 'errno' in said ? { errno: said.errno as Refusal['errno'] } : undefined; // DriverNo

/** All areas of the session, by id. @returns the one that did not leave */
function phaseTwo(m: Machine, s: Session, o: GiveUpOptions): { a: AreaRow; cause: BlockerCause } | undefined {
  for (const a of areasIn(areaTableOf(m), s.start, s.end)) {
    const cause = giveUp(m, s, a, o);
    if (cause !== 'done') return { a, cause };
  }
  return dropQuiet(m, s, o);
}

function refusalFor(a: AreaRow, outcome: string, evidence: Refusal['blockers']): Refusal {
  const what = `${a.driver} keeps ${a.pages} pages (${a.reason})`;
  if (outcome === 'pinned') return refusal('in-use', `${what}: they are pinned`, evidence);
  if (outcome === 'no-target') return refusal('no-target', `${what}: there is no other place for them`, evidence);
  if (outcome === 'fault') return refusal('fault', `${what}: a step failed`, evidence);
  if (a.outcome?.kind === 'TIMEOUT') return refusal('deadline', `${what}: it was not quiet in time`, evidence);
  const errno = a.outcome?.kind === 'REFUSED' ? { errno: a.outcome.errno } : undefined;
  return { ...refusal('relinquish', `${what}: it refused`, evidence), ...errno };
}

/** The pageblocks of a range, those that are online and not isolated yet. @returns the way back */
function isolate(m: Machine, range: Extent): () => void {
  const ladder: (() => void)[] = [];
  const pools = new Set<Pool>();
  const first = range.start - (range.start % PAGEBLOCK_PAGES);
  for (let pfn = first; pfn < range.end; pfn += PAGEBLOCK_PAGES) {
    const index = m.sections.indexOf(toPfn(pfn));
    const pool = index < 0 ? undefined : m.poolAt(index);
    if (pool === undefined) continue;
    if (!pools.has(pool)) {
      pools.add(pool);
      pool.alloc.disable(); // what waits on per-CPU lists is in nobody's reach, and of no pageblock
      ladder.push(() => pool.alloc.enable());
    }
    if (pool.alloc.area.typeOf(index - pool.base) === MIGRATE_ISOLATE) continue;
    const type = isolatePageblock(pool, index);
    ladder.push(() => unisolatePageblock(pool, index, type));
  }
  return () => {
    for (let undo = ladder.pop(); undo !== undefined; undo = ladder.pop()) undo();
  };
}
