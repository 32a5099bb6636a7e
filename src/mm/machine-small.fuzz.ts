// Every sequence of a few operations on a machine of one section: rare orders of events live in small worlds.
//
// An operation that does not apply (nothing to free, no work to step) ends its branch: the shorter sequence was seen.
// After every sequence the tables are checked in full, and everything is wound down: works cancelled, pins gone, all
// freed, the block online. Then all of the memory must be free again, in whole chunks. DIMMER_DEPTH=n goes deeper.

import { expect, it } from 'vitest';
import { type HolderId, type Pfn, toHolderId, toOrder } from '#base/units';
import { type World, worldFrom } from '../../test/support/picture.ts';
import { NR_ORDERS, PAGES_PER_SECTION } from './geometry.ts';
import type { Machine } from './machine.ts';
import type { OfflineWork } from './memory-hotplug.ts';

const DEPTH = Number(process.env.DIMMER_DEPTH ?? 4);

type State = { m: Machine; held: { pfn: Pfn; holder: HolderId; pinned: boolean }[]; work: OfflineWork | undefined };
type Operation = { name: string; apply: (s: State, w: World) => boolean };

const alloc = (letter: string, order: number): Operation => ({
  name: `alloc ${letter} ${order}`,
  apply: (s, w) => {
    const pfn = s.m.alloc(w.holder(letter), toOrder(order));
    if (pfn === -1) return false;
    s.held.push({ pfn, holder: w.holder(letter), pinned: false });
    return true;
  },
});

function free(s: State, which: number): boolean {
  const a = s.held.splice(which, 1)[0];
  if (a === undefined) return false;
  s.m.free(a.pfn);
  return true;
}

const OPERATIONS: readonly Operation[] = [
  alloc('M', 0),
  alloc('T', 9),
  alloc('U', 0),
  alloc('B', 10),
  { name: 'free oldest', apply: (s) => free(s, 0) },
  { name: 'free newest', apply: (s) => s.held.length > 1 && free(s, s.held.length - 1) },
  {
    name: 'pin newest',
    apply: (s) => {
      const a = s.held[s.held.length - 1];
      if (a === undefined || a.pinned) return false;
      s.m.pin(a.pfn);
      a.pinned = true;
      return true;
    },
  },
  {
    name: 'begin',
    apply: (s) => {
      if (s.work !== undefined) return false;
      s.work = s.m.beginOffline(s.m.blockIds()[0], { rounds: 1 });
      s.work.step();
      return true;
    },
  },
  {
    name: 'a stage further',
    apply: (s) => {
      const { work } = s;
      if (work === undefined || work.finished) return false;
      for (const stage = work.stage; !work.finished && work.stage === stage; ) work.step();
      return true;
    },
  },
  {
    name: 'to the end',
    apply: (s) => {
      const { work } = s;
      if (work === undefined || work.finished) return false;
      while (!work.finished) work.step();
      return true;
    },
  },
  {
    name: 'cancel',
    apply: (s) => {
      if (s.work === undefined || s.work.finished) return false;
      s.work.cancel();
      s.work = undefined;
      return true;
    },
  },
  { name: 'offline', apply: (s) => s.work === undefined && s.m.offline(s.m.blockIds()[0]).ok },
  { name: 'online kernel', apply: (s) => s.m.online(s.m.blockIds()[0], 'kernel').ok },
  { name: 'online movable', apply: (s) => s.m.online(s.m.blockIds()[0], 'movable').ok },
];

function windDown(s: State): void {
  const { m } = s;
  s.work?.cancel();
  if (m.block(m.blockIds()[0])?.state === 'offline') expect(m.online(m.blockIds()[0], 'kernel').ok).toBe(true);
  for (let h = 0; h < m.holders.length; h++) {
    const mine: Pfn[] = [];
    m.forEachFrameOf(toHolderId(h), (head) => mine.push(head));
    for (const pfn of mine) m.free(pfn);
  }
  for (const p of m.pools) p.alloc.drain();
}

for (const [placement, zone] of [
  ['address', 'Normal'],
  ['fullest', 'Movable'],
  ['lifo', 'Normal'],
] as const) {
  it(`C2 D1 FA5 every sequence of up to ${DEPTH} operations, ${placement}, ${zone}`, () => {
    const w = worldFrom(`n0 ${zone} ........`, { placement });
    for (const letter of 'MTUB') w.holder(letter);
    const root = w.m;
    const m = root.fork();
    let sequences = 0;
    const explore = (path: readonly number[]): void => {
      for (let k = 0; k < OPERATIONS.length; k++) {
        m.copyFrom(root);
        const s: State = { m, held: [], work: undefined };
        const full = [...path, k];
        const applied = full.every((o) => OPERATIONS[o].apply(s, w));
        const told = full.map((o) => OPERATIONS[o].name).join(', ');
        if (applied) {
          sequences++;
          const wrong = m.check(full.length === DEPTH ? 1 : 3);
          if (wrong.length > 0) throw new Error(`${told}: ${wrong[0].rule} ${wrong[0].detail}`);
        }
        windDown(s);
        if (!applied) continue;
        const lists = new Int32Array(NR_ORDERS * 6);
        for (const p of m.pools) p.alloc.area.count(lists);
        const chunks = [0, 1, 2].reduce((n, mt) => n + lists[mt * NR_ORDERS + 10], 0);
        if (chunks !== PAGES_PER_SECTION / 1024) throw new Error(`${told}: ${chunks} whole chunks at the end`);
        if (full.length < DEPTH) explore(full);
      }
    };
    explore([]);
    expect(sequences).toBeGreaterThan(5 ** DEPTH);
  });
}
