// What pools cost an order-0 allocation: the machines of the bench. Each is one engine for workloads.mjs.
//
//   one     4 GiB, one zone: the engine with one pool, as bench/engines/dimmer-holders.mjs
//   turns   the same, by eight holders in turn
//   beside  the same walk in the same zone, beside 32 user pools that were carved out of it and are not used
//   bound   one user pool has all the memory that the walk needs; holders are bound to it
//   spread  eight user pools of equal size; holders are bound to them, requests go round
//
// The walk is the same in all: 70 % of 4 GiB in use. Where the pools' frames are not the zone's, the machine is larger,
// so that as many frames are walked over.

import { Machine, pools, toPfn } from '../dist/mm/index.js';

const BASE = 2 ** 20; // from 4 GiB up: one zone, Normal
/** What the zone keeps for itself: pools take the rest. */
const REST = 1024;

const boot = (pages) =>
  Machine.boot({ ram: [{ start: toPfn(BASE), end: toPfn(BASE + pages), node: 0 }], watermarks: 'none' });

const must = (r) => {
  if (!r.ok) throw new Error(r.error.message);
  return r.value;
};

/** One zone, eight holders in turn: what turns alone cost, for `spread` to be held against. */
function turns(pages, count) {
  const m = boot(pages);
  const holders = Array.from({ length: count }, (_, k) => m.addHolder({ class: 'anonymous', name: `walk${k}` }));
  let turn = 0;
  return {
    allocPages(order) {
      turn = (turn + 1) & (count - 1);
      return m.alloc(holders[turn], order);
    },
    freePages: (pfn) => m.free(pfn),
  };
}

/** Zone and holders; `idle` pools of 1024 pages each are carved first. */
function inZone(pages, idle) {
  const m = boot(pages + idle * 1024);
  for (let k = 0; k < idle; k++) must(pools(m).create({ name: `idle${k}`, pages: 1024 }));
  const holder = m.addHolder({ class: 'anonymous', name: 'walk' });
  return {
    allocPages: (order) => m.alloc(holder, order),
    freePages: (pfn) => m.free(pfn),
  };
}

function bound(pages, code) {
  const m = boot(pages + REST);
  must(pools(m).create({ name: 'walk', pages, code }));
  const holder = must(pools(m).addHolder({ class: 'anonymous', name: 'walk', pool: 'walk' }));
  return {
    allocPages: (order) => m.alloc(holder, order),
    freePages: (pfn) => m.free(pfn),
  };
}

function spread(pages, count, code) {
  const m = boot(pages + REST);
  const holders = [];
  for (let k = 0; k < count; k++) {
    const name = `walk${k}`;
    must(pools(m).create({ name, pages: pages / count, code }));
    holders.push(must(pools(m).addHolder({ class: 'anonymous', name, pool: name })));
  }
  let turn = 0;
  return {
    allocPages(order) {
      turn = (turn + 1) & (count - 1);
      return m.alloc(holders[turn], order);
    },
    freePages: (pfn) => m.free(pfn),
  };
}

export const CASES = {
  one: (pages) => inZone(pages, 0),
  turns: (pages) => turns(pages, 8),
  beside: (pages) => inZone(pages, 32),
  bound: (pages) => bound(pages, 'own'),
  'bound-shared': (pages) => bound(pages, 'shared'),
  spread: (pages) => spread(pages, 8, 'own'),
  'spread-shared': (pages) => spread(pages, 8, 'shared'),
};
