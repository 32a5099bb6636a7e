// Several writers at once, against a model of sixteen words: who runs is the first in line, what a write says follows
// from the block's state when its turn comes. Nothing here can be refused by the engine itself: all memory is free.

import { describe, expect, it } from 'vitest';
import type { ErrnoName } from '#base/errno';
import { Prng } from '#base/prng';
import type { FsWrite } from '#kernfs/kernel-fs';
import { Machine, simpleSpec } from '#mm/index';
import { kernelTree } from './kernel-tree.ts';

type Writer = { readonly block: number; readonly file: 'state' | 'online'; readonly text: string; readonly w: FsWrite };
/** What the model keeps of a write: whether it has taken its place in line, and whether it was cancelled. */
type Line = Writer & { cancelled: boolean };

const WORDS = ['offline', 'online', 'online_movable', 'online_kernel', 'what\n'] as const;

describe('FS14 FS15 FS12 writers in any interleaving', () => {
  for (const seed of [1, 2, 3, 4, 5, 6]) {
    it(`seed ${seed}: each gets what the model says, one block at most is going offline`, () => {
      const rng = new Prng(seed);
      const m = Machine.boot(simpleSpec(2 * 2 ** 30));
      const fs = kernelTree(m);
      const online = new Map<number, boolean>();
      for (let id = 1; id < 5; id++) online.set(id, true);
      const idle: Line[] = []; // begun, not yet stepped: not in line
      const line: Line[] = [];
      let offlines = 0;
      let refused = 0;

      const settle = (x: Line, got: number | ErrnoName): void => {
        const at = line.indexOf(x);
        const where = `seed=${seed} block=${x.block} ${x.file} <- ${x.text} got=${got}`;
        const is = online.get(x.block) as boolean;
        const wish = x.text !== 'offline' && x.text !== '0';
        if (got === 'EINTR') expect(x.cancelled, where).toBe(true);
        else {
          expect(at, where).toBe(0); // only the first in line can end, but for those that gave up
          const again = is === wish;
          const want = again && x.file === 'state' ? 'EINVAL' : x.text.length;
          expect(got, where).toBe(want);
          online.set(x.block, wish);
          if (!again && !wish) offlines++;
          if (got === 'EINVAL') refused++;
        }
        line.splice(at, 1);
      };

      for (let event = 0; event < 1000; event++) {
        const what = rng.weighted([30, 60, 3]);
        if (what === 0 && idle.length + line.length < 6) {
          const block = 1 + rng.below(4);
          const file = rng.chance(0.7) ? 'state' : 'online';
          const text = file === 'state' ? rng.pick(WORDS) : rng.pick(['0', '1']);
          const w = fs.beginWrite(`/sys/devices/system/memory/memory${block}/${file}`, text);
          idle.push({ block, file, text, w, cancelled: false });
        } else if (idle.length + line.length > 0) {
          const all = [...idle, ...line];
          const x = rng.pick(all);
          if (what === 2) {
            x.w.cancel();
            x.cancelled = true;
          }
          const begins = idle.indexOf(x);
          if (begins >= 0) {
            idle.splice(begins, 1);
            if (x.cancelled || x.text === 'what\n') {
              expect(x.w.step(), `seed=${seed}`).toBe(x.cancelled ? 'EINTR' : 'EINVAL');
              continue;
            }
            line.push(x);
          }
          let got = x.w.step();
          for (let more = rng.below(40); more > 0 && got === undefined; more--) got = x.w.step();
          if (got !== undefined) settle(x, got);
        }
        const states = [...online.keys()].map((id) => fs.readText(`/sys/devices/system/memory/memory${id}/state`));
        const going = states.filter((s) => s === 'going-offline\n').length;
        expect(going, `seed=${seed} event=${event}`).toBeLessThanOrEqual(1);
        [...online].forEach(([id, on], k) => {
          const said = states[k] !== 'offline\n';
          if (said !== on) expect([id, said], `seed=${seed} event=${event}`).toEqual([id, on]);
        });
      }
      // Faults are over: everybody gets through, in a bounded number of steps.
      for (let k = 0; idle.length + line.length > 0; k++) {
        expect(k, `seed=${seed}: a writer does not end`).toBeLessThan(5000);
        const x = idle.shift() ?? (line[0] as Line);
        if (!line.includes(x)) {
          if (x.text === 'what\n') {
            expect(x.w.step()).toBe(x.cancelled ? 'EINTR' : 'EINVAL');
            continue;
          }
          line.push(x);
        }
        const got = x.w.step();
        if (got !== undefined) settle(x, got);
      }
      expect(m.hotplug.lock.taken).toBe(false);
      expect(Math.min(offlines, refused), `seed=${seed} did too little`).toBeGreaterThan(5);
      expect(m.check()).toEqual([]);
    });
  }
});
