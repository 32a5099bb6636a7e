// AR16: a day of churn on a small machine, sampled: every strict block can be taken offline, every time.
//
//   86 400 s   events by rates: processes come and go, page cache is read and dropped, kernel memory grows in bursts and shrinks,
//              guests pin their memory for long, devices for a moment, storage writes back, strict blocks go and come
//   samples    evenly over the day; at each, both strict blocks are taken offline, each on a copy of the machine
//
// Ordinary run: 1000 samples. The whole, 10^4:  DIMMER_AREA_SAMPLES=10000 npx vitest run src/mm/area-contract.fuzz.ts
// Another seed: DIMMER_SEED. The control is the same day without the contract: then blocks do not go.

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { type HolderId, type Pfn, toBlockId, toNodeId, toOrder, toPfn } from '#base/units';
import { areaContracts, contractCounts, setAreaContract } from './area-contract.ts';
import { pinLongTerm } from './area-contract-pin.ts';
import { PAGES_PER_SECTION } from './geometry.ts';
import { Machine } from './machine.ts';
import type { PageClass } from './page-class.ts';

const SAMPLES = Number(process.env.DIMMER_AREA_SAMPLES ?? 1000);
const SEED = Number(process.env.DIMMER_SEED ?? 20130529);
const DAY_S = 86_400;
const section = (n: number): Pfn => toPfn(n * PAGES_PER_SECTION);
const STRICT = [4, 5].map(toBlockId);
/** Frames in use stay below this, so that one block's contents have room elsewhere. */
const MOST_PAGES = 4 * PAGES_PER_SECTION;

type Page = { readonly holder: HolderId; readonly index: number };
type Kind = { readonly cls: PageClass; readonly orders: readonly number[]; readonly share: number };

/** What a machine's memory is used for, roughly by share; kernel classes come in bursts. */
const KINDS: readonly Kind[] = [
  { cls: 'anonymous', orders: [0, 0, 3, 6, 9], share: 40 },
  { cls: 'file', orders: [0, 2, 4], share: 30 },
  { cls: 'shmem', orders: [0, 4], share: 6 },
  { cls: 'slab', orders: [0, 1, 3], share: 10 },
  { cls: 'slab-reclaimable', orders: [0, 3], share: 5 },
  { cls: 'pagetable', orders: [0], share: 5 },
  { cls: 'vmalloc', orders: [0, 2], share: 3 },
  { cls: 'driver', orders: [0, 4], share: 1 },
];

class Day {
  readonly m: Machine;
  readonly rng: Prng;
  readonly counts = { events: 0, refused: 0, pins: 0, pinsRefused: 0, trips: 0 };
  readonly #holders: HolderId[];
  readonly #zone: 'movable' | 'kernel';
  readonly #pages: Page[] = [];
  readonly #pins: Page[] = [];
  #used = 0;

  constructor(seed: number, strict: boolean) {
    this.rng = new Prng(seed);
    this.#zone = strict ? 'movable' : 'kernel';
    this.m = Machine.boot({
      ram: [{ start: section(0), end: section(6), node: toNodeId(0) }],
      reserved: [{ name: 'kernel image', start: toPfn(0), end: toPfn(4096) }],
      blockSize: 2 ** 27,
      code: 'shared',
    });
    if (strict) {
      const area = { start: section(4), end: section(6) };
      const r = setAreaContract(this.m, area, 'removable-strict');
      if (!r.ok) throw new Error(r.error.message);
    }
    this.#holders = KINDS.map((k) => this.m.addHolder({ class: k.cls, name: k.cls }));
  }

  #pfnOf(p: Page): Pfn | undefined {
    const slot = this.m.holders.slotAt(p.holder, p.index);
    return slot < 0 ? undefined : this.m.sections.pfnOf(this.m.holders.frameAt(slot));
  }

  /** Bursts of one kind, at most 64 allocations. */
  #take(): void {
    const { m, rng } = this;
    let roll = rng.below(100);
    const at = KINDS.findIndex((k) => (roll -= k.share) < 0);
    const kind = KINDS[at] as Kind; // shares sum to 100
    const holder = this.#holders[at] as HolderId;
    const lies = kind.cls === 'driver' && rng.chance(0.5);
    for (let n = 1 + rng.below(64); n > 0 && this.#used < MOST_PAGES; n--) {
      const order = kind.orders[rng.below(kind.orders.length)] as number;
      const pfn = m.alloc(holder, toOrder(order), lies ? { movable: true } : undefined);
      if (pfn < 0) {
        this.counts.refused++;
        return;
      }
      this.#used += 2 ** order;
      const index = m.holders.indexOf(m.sections.ownerAt(m.sections.indexOf(toPfn(pfn))));
      this.#pages.push({ holder, index });
    }
  }

  #drop(): void {
    const { m, rng } = this;
    for (let n = 1 + rng.below(this.#used > MOST_PAGES * 0.9 ? 160 : 60); n > 0 && this.#pages.length > 0; n--) {
      const k = rng.below(this.#pages.length);
      const page = this.#pages[k] as Page; // k is below its length
      this.#pages[k] = this.#pages[this.#pages.length - 1] as Page;
      this.#pages.pop();
      const pfn = this.#pfnOf(page);
      if (pfn === undefined) continue;
      const info = m.frame(pfn);
      if (info.state !== 'used') throw new Error('a page of ours is not in use');
      this.#used -= 2 ** info.order;
      m.free(pfn);
    }
  }

  /** For long: a guest, RDMA. Some are let go again. */
  #pin(): void {
    const { m, rng } = this;
    if (this.#pins.length > 200 || (this.#pins.length > 0 && rng.chance(0.4))) {
      const page = this.#pins.splice(rng.below(this.#pins.length), 1)[0] as Page;
      const pfn = this.#pfnOf(page);
      if (pfn !== undefined) m.unpin(pfn);
      return;
    }
    const page = this.#pages[rng.below(Math.max(1, this.#pages.length))];
    const pfn = page === undefined ? undefined : this.#pfnOf(page);
    const info = pfn === undefined ? undefined : m.frame(pfn);
    if (page === undefined || pfn === undefined || info?.state !== 'used') return;
    if (info.class !== 'anonymous' && info.class !== 'shmem' && info.class !== 'file') return;
    const done = pinLongTerm(m, pfn);
    this.counts.pins++;
    if (done.ok) this.#pins.push(page);
    else this.counts.pinsRefused++;
  }

  /** An operator takes a strict block away and brings it back. */
  #trip(): void {
    const { m, rng } = this;
    const id = STRICT[rng.below(2)] as (typeof STRICT)[number];
    if (!m.offline(id).ok) return;
    this.counts.trips++;
    if (!m.online(id, this.#zone).ok) throw new Error('it does not come back');
  }

  step(): void {
    this.counts.events++;
    const roll = this.rng.below(1000);
    if (roll < 480) this.#take();
    else if (roll < 900) this.#drop();
    else if (roll < 998) this.#pin();
    else this.#trip();
  }
}

/** Samples of a day: how many blocks went, of how many; the first that did not. */
function sample(
  seed: number,
  strict: boolean,
  samples: number,
): { went: number; asked: number; why: string; day: Day } {
  const day = new Day(seed, strict);
  const eventEveryS = 10;
  const copy = day.m.fork();
  let went = 0;
  let asked = 0;
  let why = '';
  for (let s = 0, now = 0; s < samples; s++) {
    const until = ((s + 1) * DAY_S) / samples;
    for (; now + eventEveryS <= until; now += eventEveryS) day.step();
    for (const id of STRICT) {
      copy.copyFrom(day.m);
      asked++;
      const r = copy.offline(id);
      if (r.ok) went++;
      else if (why === '') why = `sample ${s}, block ${id}: ${r.error.message}`;
    }
    if (s % Math.ceil(samples / 20) === 0) expect(day.m.check(), `seed=${seed} sample=${s}`).toEqual([]);
  }
  return { went, asked, why, day };
}

describe('a day under contract', () => {
  it(`AR16 ${SAMPLES} samples: every strict block can be taken offline at any moment`, () => {
    const { went, asked, why, day } = sample(SEED, true, SAMPLES);
    expect(went, `seed=${SEED} ${why}`).toBe(asked);
    expect(asked).toBe(2 * SAMPLES);
    // The day was one: kernel memory was refused there, pins were moved out, blocks came and went.
    const { counts, m } = day;
    expect([counts.events > 8000, counts.trips > 3, counts.pins > 300], JSON.stringify(counts)).toEqual([
      true,
      true,
      true,
    ]);
    expect(contractCounts(m).pinsMoved).toBeGreaterThan(50);
    expect(areaContracts(m)[0]?.breaches).toEqual([]);
    expect(m.check(), `seed=${SEED}`).toEqual([]);
  }, 600_000);

  it('AR16 the control: without the contract the same day leaves blocks that do not go', () => {
    const { went, asked, day } = sample(SEED, false, Math.min(SAMPLES, 100));
    expect(asked - went, `seed=${SEED}`).toBeGreaterThan(asked / 4);
    expect(day.m.check(), `seed=${SEED}`).toEqual([]);
  }, 600_000);
});
