// kill -9 between any two lines of the journal, then --resume: the DIMM is gone, nothing else has changed, nothing goes on.
//
//   1 begin   2 3 offline a block   4 5 the other   6 7 remove the DIMM   8 the unit stays   9 end
//     └────────────┴── for each line n but the last: SIGKILL when it is there ──> --resume ──> as if nothing had happened
//
// One plan serves for all: the DIMM that is added again has the same place, so that the state is the one it was made for.

import { afterAll, beforeAll, expect, it } from 'vitest';
import { describeQemu, MIB } from './guest.ts';
import { apply, endOf, expectNoWriters, type Made, picture, plan, resume } from './scenario.ts';

const LINES = 9;

describeQemu({ name: 'crash' }, (booted) => {
  const add = () => booted().addOnlineDimm({ id: 'd0', bytes: 256 * MIB, node: 1, word: 'online_movable' });
  const told: string[] = [];
  let totalBefore: number;
  let load: number;
  let made: Made;

  beforeAll(async () => {
    const guest = booted();
    totalBefore = await guest.meminfo('MemTotal');
    await add();
    load = (await guest.hold('anon 64 1 nothp')).pid as number;
    made = await plan(guest, ['remove', 'dimm:d0']);
  });
  afterAll(() => console.log(['crash: killed after line', ...told].join('\n  ')));

  it(`the journal of the removal has ${LINES} lines`, async () => {
    const whole = await apply(booted(), made.file);
    expect(endOf(whole)).toBe('done');
    expect(whole.journal.map((l) => l.kind)).toEqual([
      'begin',
      ...['intent', 'outcome', 'intent', 'outcome', 'intent', 'outcome'],
      'unit',
      'end',
    ]);
  });

  it.each(Array.from({ length: LINES - 1 }, (_, k) => k + 1))('kill -9 after line %i, then --resume', async (line) => {
    const guest = booted();
    const fresh = await add();
    const start = performance.now();
    const killed = await apply(guest, made.file, { code: undefined, at: { line, signal: 'SIGKILL' } });
    // The last lines come so close together that the execution may be over before the signal is there.
    if (line < LINES - 1) expect(killed.run.code, 'it was killed').toBeUndefined();
    const then = picture(await guest.blocksOf(fresh)).join(', ') || 'gone';
    const resumed = await resume(killed.file);
    const seconds = ((performance.now() - start) / 1000).toFixed(1);
    told.push(`${line} (at ${killed.run.lines}: ${then}), then ${endOf(resumed)}, ${seconds} s`);
    expect(endOf(resumed)).toBe('done');
    expect(await guest.dimms()).toEqual([]);
    expect(await guest.blocksOf(fresh)).toEqual([]);
    expect(await guest.meminfo('MemTotal')).toBe(totalBefore);
    const backends = (await guest.monitor.request('query-memdev')) as { id: string }[];
    expect(backends.map((b) => b.id).sort(), 'no backend is left behind').toEqual(['ram0', 'ram1']);
    expect((await guest.sh(`kill -0 ${load}`)).code, 'the load lives').toBe(0);
    await expectNoWriters(guest);
  });
});
