// Remapping in random worlds, with a failure at every step of the protocol: R1 to R5, and no page's contents are lost (C5).
//
// A world is a small machine and a DIMM. Kernel pages of all classes and orders are allocated, written, pinned and freed; blocks go
// offline with and without the evictor, in steps with others at work in between, memory is removed and comes back, kernel
// pages are moved, evacuated and brought home; each seed has a step at which it fails more often than elsewhere. A naive model
// (a map from address to what was written there) is held against the machine after every event.
//
//   DIMMER_SEED=n  replays one seed      DIMMER_KREMAP_SEEDS=n  how many (default 1000)      DIMMER_KREMAP_OPS=n  events of each

import { expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { type HolderId, type Pfn, toBlockId, toNodeId, toOrder, toPfn } from '#base/units';
import type { KernelClass } from '../kernel-class.ts';
import { Machine, tagOf } from '../machine.ts';
import type { PageClass } from '../page-class.ts';
import { TAG_SHIFT } from '../section.ts';
import { checkKremap } from './check-kremap.ts';
import { remapEvictor } from './evictor.ts';
import { kremap } from './kremap.ts';
import { kremapOf } from './kremap-state.ts';
import { KREMAP_STEPS } from './protocol.ts';
import { S } from './world.cases.ts';

const SEEDS = Number(process.env.DIMMER_KREMAP_SEEDS ?? 1000);
const OPS = Number(process.env.DIMMER_KREMAP_OPS ?? 24);
const ONE = process.env.DIMMER_SEED;
const FIRST_BLOCK = 8;
const LAST_BLOCK = 10;

const CLASSES: readonly (readonly [PageClass, KernelClass | undefined])[] = [
  ['slab', undefined],
  ['slab-reclaimable', undefined],
  ['stack', undefined],
  ['reserved', 'K'],
  ['vmalloc', undefined],
  ['pagetable', undefined],
  ['driver', 'H'],
  ['anonymous', undefined],
];

/** What the model knows of one allocation: its holder's entry, its address if it is of class K, what was written into it. */
type Page = {
  readonly slot: number;
  readonly order: number;
  readonly va: number;
  readonly bytes: number;
  pinned: boolean;
};

class World {
  readonly m: Machine;
  readonly rng: Prng;
  readonly holders: HolderId[];
  readonly kernel: boolean[];
  pages: Page[] = [];
  /** Is there a DIMM? */
  plugged = false;
  moved = 0;

  constructor(seed: number, image: Machine) {
    this.rng = new Prng(seed);
    this.m = image.fork();
    this.holders = CLASSES.map(([cls, kernel]) =>
      this.m.addHolder({ class: cls, name: cls, ...(kernel === undefined ? {} : { kernel }) }),
    );
    this.kernel = CLASSES.map(([cls, kernel]) => kernel === 'K' || /^slab|stack/.test(cls));
    const often = this.rng.pick(KREMAP_STEPS);
    this.m.faultAt = (point) => this.rng.chance(point === `kremap.${often}` ? 0.3 : 0.02);
  }

  allocate(): void {
    const { m, rng } = this;
    const c = rng.below(CLASSES.length);
    const order = rng.chance(0.7) ? 0 : rng.below(10);
    const pfn = m.alloc(this.holders[c] as HolderId, toOrder(order));
    if (pfn < 0) return;
    const index = m.sections.indexOf(pfn as Pfn);
    const va = this.kernel[c] === true ? (pfn as number) : -1;
    const bytes = 1 + rng.below(250);
    if (m.spec.contents === 'bytes') m.write(toPfn(pfn + 2 ** order - 1), 17, Uint8Array.of(bytes));
    this.pages.push({ slot: m.sections.ownerAt(index), order, va, bytes, pinned: false });
  }

  frameOf(p: Page): Pfn {
    return this.m.sections.pfnOf(this.m.holders.frameAt(p.slot));
  }

  step(): void {
    const { m, rng } = this;
    const k = kremap(m);
    const p = this.pages.length === 0 ? undefined : rng.pick(this.pages);
    const block = toBlockId(FIRST_BLOCK + rng.below(LAST_BLOCK - FIRST_BLOCK));
    switch (rng.weighted([8, 4, 2, 2, 4, 3, 3, 2, 3])) {
      case 0:
        for (let n = rng.below(12); n >= 0; n--) this.allocate();
        break;
      case 1:
        if (p === undefined) break;
        m.free(this.frameOf(p));
        this.pages = this.pages.filter((q) => q !== p);
        break;
      case 2:
        if (p === undefined) break;
        if (p.pinned) m.unpin(this.frameOf(p));
        else m.pin(this.frameOf(p));
        p.pinned = !p.pinned;
        break;
      case 3:
        if (p !== undefined && k.move(this.frameOf(p)).ok) this.moved++;
        break;
      case 4:
        if (m.block(block) !== undefined) this.offline(block);
        break;
      case 5:
        this.plug();
        break;
      case 6:
        if (m.block(block)?.state !== 'offline') break;
        m.online(block, rng.chance(0.8) ? 'kernel' : 'movable');
        break;
      case 7: {
        const start = FIRST_BLOCK * S + rng.below(2 * S);
        const end = start + 1 + rng.below(3000);
        const partial = rng.chance(0.5);
        k.evacuate({ start: toPfn(start), end: toPfn(end) }, { partial, policy: rng.pick(['page', 'whole-leaf']) });
        break;
      }
      default:
        k.home({ start: toPfn(0), end: toPfn(LAST_BLOCK * S) });
    }
  }

  /** With others at work in between, given up at times. */
  offline(block: ReturnType<typeof toBlockId>): void {
    const { m, rng } = this;
    const evictors = rng.chance(0.9) ? [remapEvictor({ policy: rng.pick(['page', 'whole-leaf']) })] : [];
    if (rng.chance(0.4)) {
      m.offline(block, { evictors });
      return;
    }
    const work = m.beginOffline(block, { evictors, batch: 1 + rng.below(8), rounds: 3 });
    while (!work.finished) {
      work.step();
      if (work.finished) break;
      if (rng.chance(0.02)) work.cancel();
      else if (rng.chance(0.1)) this.allocate();
      else if (rng.chance(0.05) && this.pages.length > 0) {
        const p = rng.pick(this.pages);
        m.free(this.frameOf(p));
        this.pages = this.pages.filter((q) => q !== p);
      }
    }
  }

  plug(): void {
    const range = { start: toPfn(FIRST_BLOCK * S), end: toPfn(LAST_BLOCK * S) };
    if (this.plugged) {
      const gone = this.m.removeMemory(range);
      if (gone.ok) this.plugged = false;
    } else {
      expect(this.m.addMemory(range, toNodeId(0)).ok).toBe(true);
      this.plugged = true;
    }
  }

  /** R1 and R2 by the model; R3 to R5, and everything else, by check(). */
  verify(said: string): void {
    const { m } = this;
    const k = kremap(m);
    const same = (what: string, is: number, want: number): void => {
      if (is !== want) expect(is, `${said}: ${what}`).toBe(want);
    };
    for (const p of this.pages) {
      const head = this.frameOf(p);
      const last = 2 ** p.order - 1;
      if (m.spec.contents === 'bytes') same(`contents of ${head}`, m.read(toPfn(head + last))[17] as number, p.bytes);
      same(`tag of ${head}`, m.sections.metaAt(m.holders.frameAt(p.slot) + last) >>> TAG_SHIFT, tagOf(p.slot));
      if (p.va < 0) continue;
      for (const off of [0, last]) {
        same(`address ${p.va}+${off}`, k.virtToPhys(p.va + off), head + off);
        same(`frame ${head}+${off}`, k.physToVirt(head + off), p.va + off);
      }
    }
  }
}

const image = (contents: 'tag' | 'bytes'): Machine =>
  Machine.boot({
    ram: [{ start: toPfn(0), end: toPfn(2 * S), node: toNodeId(0) }],
    blockSize: 2 ** 27,
    contents,
    code: 'shared',
    cpus: 2,
    watermarks: 'none',
    hotplug: { autoOnline: 'online_kernel' },
  });
/** Each fourth world has real bytes and is checked throughout; the others have tags, and what remapping adds to check(). */
const isThorough = (seed: number): boolean => seed % 4 === 0 || ONE !== undefined;

it(`R1 R2 R3 C4 random worlds with a failure at every step: addresses lead to their contents, nothing is lost (${SEEDS} seeds)`, () => {
  const seeds = ONE === undefined ? Array.from({ length: SEEDS }, (_, n) => n + 1) : [Number(ONE)];
  const [tags, bytes] = [image('tag'), image('bytes')];
  const total = { moves: 0, aborts: 0, home: 0, held: 0, whole: 0, displaced: 0 };
  for (const seed of seeds) {
    const w = new World(seed, isThorough(seed) ? bytes : tags);
    const start = `seed=${seed}`;
    w.plug();
    for (let n = 0; n < OPS; n++) {
      try {
        w.step();
      } catch (error) {
        throw new Error(`${start} event ${n}: ${String(error)}`, { cause: error });
      }
      w.verify(`${start} event ${n}`);
      const stat = kremap(w.m).stat();
      total.displaced = Math.max(total.displaced, stat.displaced);
      total.held = Math.max(total.held, stat.vaBlocked);
      total.whole += stat.wholeLeaves;
    }
    expect(isThorough(seed) ? w.m.check() : checkKremap(w.m), start).toEqual([]);
    const k = kremapOf(w.m);
    total.moves += kremap(w.m).stat().moves;
    total.aborts += k?.counters.aborts ?? 0;
    total.home += k?.counters.home ?? 0;
    // In the end all pages go, and with them every table and every frame that was held.
    w.m.faultAt = undefined;
    for (const p of w.pages) w.m.free(w.frameOf(p));
    expect(kremap(w.m).stat(), start).toMatchObject({
      displaced: 0,
      splitLeaves: 0,
      leafTables: 0,
      tableFrames: 0,
      vaBlocked: 0,
    });
    if (seed % 20 === 0) expect(w.m.check(), start).toEqual([]);
  }
  if (ONE !== undefined) return;
  // The worlds do what they are for.
  expect(total.moves / SEEDS).toBeGreaterThan(20);
  for (const n of [total.aborts, total.home, total.held, total.whole, total.displaced])
    expect(n).toBeGreaterThan(SEEDS / 10);
});
