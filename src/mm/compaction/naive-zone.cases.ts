// A naive zone: compaction over plain arrays, frame by frame, for tests. It says which page moves where.
//
//   owner[frame]   whose page it is; -1 = free          page   { owner, at, order, kind }
//   chunks are found by looking whether all frames of an aligned range are free, each time
//
// The same algorithm as compact-zone.ts, written down once more from Linux v6.12 mm/compaction.c without any of its shortcuts:
// no bitmaps, no resuming, no machine. One zone that begins at frame 0.

import type { MigrateMode } from '../migrate.ts';
import type { CompactResult } from './compact-result.ts';

const PB = 512;

/**
 * move   anything that moves, in parts if need be      stay     kernel memory, pinned anonymous
 * whole  moves whole or not at all                     fails    pinned page cache: tried, never moves
 * dirty  moves in mode sync only                       written  under writeback: tried in mode sync only, never moves
 */
export type NaiveKind = 'move' | 'whole' | 'stay' | 'fails' | 'dirty' | 'written';
export type NaivePage = { readonly owner: number; at: number; order: number; kind: NaiveKind };

export type NaiveOptions = {
  readonly order: number;
  readonly mode: MigrateMode;
  readonly migratetype: number;
  readonly direct: boolean;
  readonly wholeZone: boolean;
  readonly ignoreSkip: boolean;
  readonly capture: boolean;
};

export class NaiveZone {
  /** The page of each frame; undefined = free, 'taken' = a target in nobody's hands. */
  readonly at: (NaivePage | 'taken' | undefined)[];
  /** Type of each pageblock: 0, 1, 2 or 4. */
  readonly types: number[];
  readonly skip: boolean[];
  min = Number.NEGATIVE_INFINITY;
  cached: { migrate: [number, number]; free: number } = { migrate: [-1, -1], free: -1 };
  scanned: [number, number] = [0, 0];
  moved = 0;
  failed = 0;
  captured = -1;
  flush = false;

  constructor(types: readonly number[]) {
    this.types = [...types];
    this.skip = types.map(() => false);
    this.at = new Array<NaivePage | undefined>(types.length * PB).fill(undefined);
  }

  put(page: NaivePage): void {
    for (let i = page.at; i < page.at + 2 ** page.order; i++) this.at[i] = page;
  }

  remove(page: NaivePage): void {
    this.#free(page.at, page.order);
  }

  #clear(start: number, order: number): void {
    for (let i = start; i < start + 2 ** order; i++) this.at[i] = undefined;
  }

  /** Frames become free. Two pageblocks that merge take the type of what was freed last. */
  #free(start: number, order: number): void {
    this.#clear(start, order);
    const c = this.chunk(start);
    if (c?.[1] === 10) this.types.fill(this.types[Math.floor(start / PB)] as number, c[0] / PB, c[0] / PB + 2);
  }

  get pages(): NaivePage[] {
    return [...new Set(this.at.filter((p): p is NaivePage => p !== undefined && p !== 'taken'))];
  }

  #isFree(start: number, end: number): boolean {
    for (let i = start; i < end; i++) if (i >= this.at.length || this.at[i] !== undefined) return false;
    return true;
  }

  /** The largest free buddy that covers frame i, [head, order]; undefined when it is not free. */
  chunk(i: number): readonly [number, number] | undefined {
    let found: readonly [number, number] | undefined;
    for (let o = 0; o <= 10; o++) {
      const head = i - (i % 2 ** o);
      if (!this.#isFree(head, head + 2 ** o)) break;
      const [a, b] = [this.types[Math.floor(head / PB)] as number, this.types[Math.floor(head / PB) + 1] as number];
      if (o === 10 && a !== b && (a > 2 || b > 2)) break;
      found = [head, o];
    }
    return found;
  }

  /** Free chunks, ascending. */
  chunks(): { head: number; order: number; type: number }[] {
    const out: { head: number; order: number; type: number }[] = [];
    for (let i = 0; i < this.at.length; ) {
      const c = this.chunk(i);
      if (c === undefined) i++;
      else {
        out.push({ head: c[0], order: c[1], type: this.types[Math.floor(i / PB)] });
        i = c[0] + 2 ** c[1];
      }
    }
    return out;
  }

  /** Runs to the end. The caller has made sure that there is something to do (no such page is free, enough is). */
  compact(o: NaiveOptions): CompactResult {
    const end = this.at.length;
    const last = end - PB;
    const sync = o.mode === 'async' ? 0 : 1;
    this.scanned = [0, 0];
    this.moved = this.failed = 0;
    this.captured = -1;
    const whole = o.wholeZone;
    let migrate = 0;
    let free = last;
    if (!whole) {
      if (this.cached.free < 0 || this.cached.free >= end) this.cached.free = last;
      free = this.cached.free;
      if (this.cached.migrate[sync] < 0 || this.cached.migrate[sync] >= end) this.cached.migrate = [0, 0];
      migrate = this.cached.migrate[sync];
    }
    let same = sync === 0 && this.cached.migrate[0] === this.cached.migrate[1];
    let lastMigrated = -1;
    let list: NaivePage[] = [];
    let wanted = 0;
    let targets: [number, number][] = [];
    const block = (i: number): number => Math.floor(i / PB);
    const met = (): boolean => block(free) <= block(migrate);
    const held = (): number => targets.reduce((n, [, k]) => n + 2 ** k, 0);

    const cacheMigrate = (i: number): void => {
      const to = (block(i) + 1) * PB;
      if (to > this.cached.migrate[0]) this.cached.migrate[0] = to;
      if (sync === 1 && to > this.cached.migrate[1]) this.cached.migrate[1] = to;
    };

    const finished = (): CompactResult | undefined => {
      if (met()) {
        this.cached = { migrate: [0, 0], free: last };
        if (o.direct) this.flush = true;
        return whole ? 'complete' : 'partial-skipped';
      }
      if (o.order < 0 || migrate % PB !== 0) return undefined;
      for (const c of this.chunks()) {
        if (c.order < o.order) continue;
        if (c.type === o.migratetype || (o.migratetype === 1 && c.type === 4)) return 'success';
        if (c.type < 3 && (c.order >= 4 || o.migratetype !== 1)) return 'success';
      }
      return undefined;
    };

    const canIsolate = (p: NaivePage): boolean => {
      if (p.kind === 'stay' || p.order >= 9 || (o.order >= 0 && p.order > 0 && p.order >= o.order)) return false;
      return o.mode === 'sync' || (p.kind !== 'dirty' && p.kind !== 'written');
    };

    const isolateMigrate = (finish: boolean): boolean => {
      for (; (block(migrate) + 1) * PB <= free; migrate = (block(migrate) + 1) * PB) {
        const pb = block(migrate);
        const stop = (pb + 1) * PB;
        const first = this.at[pb * PB];
        const fresh = migrate % PB === 0;
        if (fresh && !o.ignoreSkip && this.skip[pb]) continue;
        const type = this.types[pb];
        const like = o.migratetype === 1 ? type === 1 || type === 4 : type === o.migratetype;
        const large = first !== undefined && first !== 'taken' && first.order >= 9;
        if (large || (o.mode === 'async' && o.direct && !like)) {
          cacheMigrate(stop);
          continue;
        }
        const giveUp = o.mode === 'async' && o.direct;
        const size = giveUp ? 2 ** o.order : PB;
        let nextPiece = (Math.floor(migrate / size) + 1) * size;
        let marked = false;
        let got = 0;
        let i = migrate;
        const from = migrate;
        for (; i < stop; i++) {
          if (giveUp && i >= nextPiece) {
            if (got > 0) break;
            nextPiece = (Math.floor(i / size) + 1) * size;
          }
          const p = this.at[i];
          if (p === undefined) continue;
          if (p !== 'taken' && p.at === i && canIsolate(p)) {
            if (fresh && !marked && !o.ignoreSkip) this.skip[pb] = true;
            marked = true;
            list.push(p);
            got += 2 ** p.order;
            wanted += 2 ** p.order;
            i += 2 ** p.order - 1;
            if (wanted >= 32 && !finish) {
              i++;
              break;
            }
            continue;
          }
          if (p !== 'taken') i = p.at + 2 ** p.order - 1;
          if (!giveUp) continue;
          if (got > 0) {
            list = [];
            got = wanted = 0;
          }
          if (i < nextPiece) {
            i = nextPiece - 1;
            nextPiece += size;
          }
        }
        if (i > stop) i = stop;
        if (i === stop && (got === 0 || finish)) {
          if (fresh && !marked) this.skip[pb] = true;
          cacheMigrate(i);
        }
        this.scanned[0] += i - from;
        migrate = i;
        break;
      }
      return list.length > 0;
    };

    const isolateFree = (): void => {
      let start = free;
      let pb = block(start);
      for (; pb > block(migrate); pb--, start = pb * PB) {
        const stop = (pb + 1) * PB;
        const c = this.chunk(pb * PB);
        if (c !== undefined && c[1] >= (o.order > 0 ? o.order : 9)) continue;
        if (this.types[pb] !== 1 && this.types[pb] !== 4) continue;
        if (!o.ignoreSkip && this.skip[pb]) continue;
        const from = start;
        let refused = false;
        while (start < stop) {
          const chunk = this.chunk(start);
          if (chunk === undefined) {
            start++;
            continue;
          }
          const [head, order] = chunk;
          const all = this.at.filter((p) => p === undefined).length;
          if (all <= this.min + 2 ** order) {
            refused = true;
            start = head;
            break;
          }
          for (let i = head; i < head + 2 ** order; i++) this.at[i] = 'taken';
          targets.push([head, order]);
          start = head + 2 ** order;
          if (held() >= wanted) break;
        }
        this.scanned[1] += start - from;
        if (start === stop) {
          this.skip[pb] = true;
          this.cached.free = Math.min(this.cached.free, (pb - 1) * PB);
        }
        if (held() >= wanted) {
          if (start === stop) start = (pb - 1) * PB;
          break;
        }
        if (refused) break;
      }
      free = start;
    };

    /** The first piece of the smallest order that will do. */
    const target = (order: number): number => {
      for (let again = 0; again < 2; again++) {
        for (let k = order; k <= 10; k++) {
          const n = targets.findIndex(([, size]) => size === k);
          if (n < 0) continue;
          const [[head]] = targets.splice(n, 1);
          for (let c = k - 1; c >= order; c--) targets.unshift([head + 2 ** c, c]);
          return head;
        }
        if (again === 0) isolateFree();
      }
      return -1;
    };

    /** Of the source's frames, given back: does the piece of the order come to be? */
    const capture = (p: NaivePage): boolean => {
      if (!o.capture || this.captured >= 0 || o.order < 0 || o.order >= 10) return false;
      const type = this.types[block(p.at)];
      if (type === 4 || (o.order < 9 && type === 1 && o.migratetype !== 1)) return false;
      const c = this.chunk(p.at);
      if (c === undefined || c[1] < o.order) return false;
      this.captured = p.at - (p.at % 2 ** o.order);
      for (let i = this.captured; i < this.captured + 2 ** o.order; i++) this.at[i] = 'taken';
      return true;
    };

    const migrateList = (): 'moved' | 'some-failed' | 'no-room' => {
      let came: 'moved' | 'some-failed' | 'no-room' = 'moved';
      while (list.length > 0) {
        const p = list.pop() as NaivePage;
        const to = target(p.order);
        if (to < 0) {
          if (p.order > 0 && (p.kind === 'move' || p.kind === 'dirty')) {
            this.#clear(p.at, p.order);
            for (let k = 2 ** p.order - 1; k >= 0; k--) {
              const part = { owner: p.owner, at: p.at + k, order: 0, kind: p.kind };
              this.put(part);
              list.push(part);
            }
            continue;
          }
          this.failed += 2 ** p.order;
          came = 'no-room';
          break;
        }
        wanted -= 2 ** p.order;
        if (p.kind === 'fails' || p.kind === 'written') {
          targets.unshift([to, p.order]);
          this.failed += 2 ** p.order;
          came = 'some-failed';
          continue;
        }
        this.#clear(p.at, p.order);
        if (!capture(p)) this.#free(p.at, p.order);
        p.at = to;
        if (p.kind === 'dirty') p.kind = 'move'; // it was written back for that
        this.put(p);
        this.moved += 2 ** p.order;
      }
      list = [];
      wanted = 0;
      return came;
    };

    const release = (): void => {
      let high = -1;
      for (const [head, order] of targets) {
        high = Math.max(high, block(head) * PB);
        this.#free(head, order);
      }
      targets = [];
      if (high >= 0) this.cached.free = Math.max(this.cached.free, high);
    };

    const run = (): CompactResult => {
      let finish = false;
      let rescan = false;
      for (;;) {
        if (!rescan) {
          const over = finished();
          if (over !== undefined) return over;
          finish = lastMigrated >= 0 && block(lastMigrated) === block(migrate);
        }
        rescan = false;
        const some = isolateMigrate(finish);
        if (!some) {
          if (same) this.cached.migrate[1] = this.cached.migrate[0];
        } else {
          same = false;
          lastMigrated = block(migrate - 1) * PB;
          const came = migrateList();
          if (came === 'no-room' && !met()) return 'contended';
          if (came !== 'moved' && migrate % PB !== 0 && !o.ignoreSkip && !finish && o.mode !== 'sync') {
            finish = rescan = true;
            if (o.order === 9) lastMigrated = -1;
            continue;
          }
          if (this.captured >= 0) return 'success';
        }
        if (o.order > 0 && lastMigrated >= 0 && lastMigrated < migrate - (migrate % 2 ** o.order)) lastMigrated = -1;
      }
    };
    const result = run();
    release();
    return result;
  }
}
