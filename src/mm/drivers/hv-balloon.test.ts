// Hyper-V's hot-add, rule by rule. Rules in docs/spec/balloon.md.

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { toBlockId, toNodeId, toOrder, toPfn } from '#base/units';
import { PAGES_PER_SECTION } from '../geometry.ts';
import { Machine } from '../machine.ts';
import type { MachineSpec } from '../machine-spec.ts';
import { setOnlinePageCallback } from '../online-callback.ts';
import { type HotAddResponse, HvHotAdd, ONLINE_WAIT_MS } from './hv-balloon.ts';

const NODE = toNodeId(0);
const BLOCK = PAGES_PER_SECTION;
const BASE = 32 * BLOCK; // 4 GiB
const block = (k: number) => toBlockId(32 + k);

function guest(spec: Partial<MachineSpec> = {}, hostRegions = false) {
  const ram = [{ start: toPfn(0), end: toPfn(4 * BLOCK), node: NODE }];
  const m = Machine.boot({ ram, hotplug: { autoOnline: 'online_movable' }, code: 'shared', ...spec });
  const r = HvHotAdd.probe(m, { name: 'hv_balloon', node: NODE, hostRegions });
  if (!r.ok) throw new Error(r.error.message);
  const hv = r.value;
  const answers: HotAddResponse[] = [];
  hv.onResponse = (a) => answers.push(a);
  const send = (start: number, count: number, region?: [number, number]): string => {
    const named = region === undefined ? undefined : { start: toPfn(BASE + region[0]), count: region[1] };
    hv.hotAdd({ start: toPfn(BASE + start), count }, named);
    return hv.settle();
  };
  const managed = (): number => m.poolNamed(NODE, 'Movable')?.managed ?? 0;
  const sound = (why = ''): void => {
    expect(hv.check(), why).toEqual([]);
    expect(m.check(), why).toEqual([]);
  };
  return { m, hv, answers, send, managed, sound };
}

describe('HV1 what is backed', () => {
  it('HV1 blocks are added around the pages; what is not backed is present and not managed', () => {
    const { m, answers, send, managed, sound } = guest();
    expect(send(0, BLOCK + 1000)).toBe('idle');
    expect(answers).toEqual([{ pages: BLOCK + 1000, result: 1 }]);
    expect([32, 33, 34].map((b) => m.block(toBlockId(b))?.state)).toEqual(['online', 'online', undefined]);
    expect([managed(), m.poolNamed(NODE, 'Movable')?.present]).toEqual([BLOCK + 1000, 2 * BLOCK]);
    sound();
  });

  it('HV1 later pages of a block that is online are in use at once; pages beyond add blocks', () => {
    const { m, answers, send, managed, sound } = guest();
    send(0, 1000);
    send(1000, 77);
    expect(managed()).toBe(1077);
    expect(m.block(block(1))).toBeUndefined();
    sound();
    send(1077, 2 * BLOCK);
    expect(managed()).toBe(1077 + 2 * BLOCK);
    expect(m.block(block(2))?.state).toBe('online');
    expect(answers.map((a) => a.pages)).toEqual([1000, 77, 2 * BLOCK]);
    sound();
  });

  it('HV1 pages that a message skips are a gap: never backed', () => {
    const { send, managed, sound } = guest();
    send(0, 512);
    send(1024, 512);
    expect(managed()).toBe(1024);
    sound();
    send(1536, BLOCK - 1536);
    expect(managed()).toBe(BLOCK - 512);
    sound();
  });

  it('HV1 pages in the middle of a block: the pages before them stay out', () => {
    const { send, managed, sound } = guest();
    send(4096, 4096);
    expect(managed()).toBe(4096);
    sound();
  });

  it('HV1 a region that the host names bounds what is added', () => {
    const { m, answers, send, managed, sound } = guest({}, true);
    send(0, 3 * BLOCK, [0, 2 * BLOCK]);
    expect(answers).toEqual([{ pages: 2 * BLOCK, result: 1 }]);
    expect(managed()).toBe(2 * BLOCK);
    expect(m.block(block(2))).toBeUndefined();
    sound();
  });
});

describe('HV2 waiting', () => {
  it('HV2 after each block it waits until that is online, at most 5 s, and goes on in any case', () => {
    const { m, hv, answers, send, managed, sound } = guest({ hotplug: { autoOnline: 'offline' } });
    expect(send(0, 3 * BLOCK)).toBe('waiting');
    expect(m.block(block(0))?.state).toBe('offline');
    expect(m.block(block(1))).toBeUndefined();
    m.online(block(0), 'movable');
    expect(hv.settle()).toBe('waiting');
    expect(m.block(block(1))?.state).toBe('offline');
    hv.tick(ONLINE_WAIT_MS - 1);
    expect(hv.settle()).toBe('waiting');
    hv.tick(ONLINE_WAIT_MS);
    expect(hv.settle()).toBe('waiting');
    hv.tick(2 * ONLINE_WAIT_MS);
    expect(hv.settle()).toBe('idle');
    expect(answers).toEqual([{ pages: 3 * BLOCK, result: 1 }]);
    expect(managed()).toBe(BLOCK);
    sound();
    for (const k of [1, 2]) m.online(block(k), 'movable');
    expect(managed()).toBe(3 * BLOCK);
    sound();
  });

  it('HV2 pages that are backed while their block is offline come online with it', () => {
    const { m, hv, send, managed, sound } = guest({ hotplug: { autoOnline: 'offline' } });
    send(0, 1000);
    hv.tick(ONLINE_WAIT_MS);
    hv.settle();
    send(1000, 24);
    expect(managed()).toBe(0);
    m.online(block(0), 'movable');
    expect(managed()).toBe(1024);
    sound();
  });
});

describe('HV3 what Linux refuses', () => {
  it('HV3 EEXIST: no hot-add ever again, and the host is told so (result 1 without pages)', () => {
    const { m, answers, send, sound } = guest();
    m.addMemory({ start: toPfn(BASE), end: toPfn(BASE + BLOCK) }, NODE);
    send(0, 100);
    send(8 * BLOCK, 100);
    expect(answers).toEqual([
      { pages: 0, result: 1 },
      { pages: 0, result: 1 },
    ]);
    expect(m.block(block(8))).toBeUndefined();
    sound();
  });

  it('HV3 no memory for the struct pages: the host may try again (result 0), and then it works', () => {
    const { m, answers, send, sound } = guest({ watermarks: 'none' });
    const slab = m.addHolder({ class: 'slab', name: 'everything' });
    const all: number[] = [];
    for (let pfn = m.alloc(slab, toOrder(0)); pfn >= 0; pfn = m.alloc(slab, toOrder(0))) all.push(pfn);
    send(0, 100);
    for (const pfn of all) m.free(toPfn(pfn));
    send(0, 100);
    expect(answers).toEqual([
      { pages: 0, result: 0 },
      { pages: 100, result: 1 },
    ]);
    sound();
  });

  it('HV3 a message of no pages is answered with 0', () => {
    const { answers, send } = guest();
    send(0, 0);
    expect(answers).toEqual([{ pages: 0, result: 0 }]);
  });

  it('HV3 another driver with the online callback refuses it', () => {
    const m = Machine.boot({ ram: [{ start: toPfn(0), end: toPfn(BLOCK), node: NODE }], code: 'shared' });
    setOnlinePageCallback(m, () => {});
    expect(HvHotAdd.probe(m, { name: 'hv_balloon', node: NODE })).toMatchObject({ error: { errno: 'EINVAL' } });
  });
});

describe('HV4 offline', () => {
  it('HV4 a block of which a part is not backed cannot go (EBUSY); a whole one can, and comes back', () => {
    const { m, hv, send, managed, sound } = guest();
    send(0, BLOCK + 5);
    expect(m.offline(block(1))).toMatchObject({ error: { errno: 'EBUSY' } });
    expect(m.offline(block(0))).toMatchObject({ ok: true });
    expect(hv.pagesOnlined).toBe(5);
    sound();
    m.online(block(0), 'movable');
    expect(managed()).toBe(BLOCK + 5);
    sound();
  });

  it('HV4 random messages, offline and online: sound after each, managed is what is backed and online', () => {
    for (let seed = 1; seed <= 8; seed++) {
      const rng = new Prng(seed);
      const { m, hv, answers, managed, sound } = guest({
        hotplug: { autoOnline: rng.pick(['offline', 'online_movable']) },
      });
      const backed = new Set<number>();
      let next = 0;
      let now = 0;
      let asked: { start: number; count: number } | undefined;
      hv.onResponse = (a) => {
        answers.push(a);
        if (asked === undefined) throw new Error('nobody asked');
        for (let k = 0; k < a.pages; k++) backed.add(asked.start + k);
        asked = undefined;
      };
      for (let k = 0; k < 60; k++) {
        const id = block(rng.below(6));
        const what = rng.weighted([3, 6, 2, 2]);
        if (what === 0 && hv.activity === 'idle' && next < 5 * BLOCK) {
          const start = next + (rng.chance(0.3) && next > 0 ? rng.below(3000) : 0);
          asked = { start: BASE + start, count: 1 + rng.below(BLOCK) };
          next = start + asked.count;
          hv.hotAdd({ start: toPfn(asked.start), count: asked.count });
        } else if (what === 1) {
          hv.tick((now += rng.below(4000)));
          hv.step();
        } else if (m.block(id) !== undefined) {
          if (what === 2) m.offline(id);
          else m.online(id, 'movable');
        }
        if (k % 10 === 0) sound(`seed=${seed} event ${k}`);
      }
      while (hv.activity !== 'idle') {
        hv.tick((now += ONLINE_WAIT_MS));
        hv.settle();
      }
      let want = 0;
      for (const pfn of backed) if (m.frame(toPfn(pfn)).state !== 'offline') want++;
      expect(managed(), `seed=${seed}`).toBe(want);
      sound(`seed=${seed}`);
    }
  });
});
