// A DIMM comes and goes over a connection that breaks: random cuts, lost replies, lost and foreign events, a guest that
// refuses or is silent. Whatever is told must be true of the made-up QEMU, and trying again must end it.
//
//   told         must be true
//   ok           the device is there, and its backend           | neither is there
//   refused      nothing of it is left behind                   | both are still there
//   otherwise    anything; trying again, with a sound connection, comes to one of the two above

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { ok } from '#base/result';
import type { Action } from '#plan/plan';
import { addDimm } from './device-requests.ts';
import { CLOCK, FakeQemu } from './qemu-host.cases.ts';
import type { QmpFailure } from './qmp-port.ts';
import { removeDimm } from './unplug.ts';

const GiB = 2 ** 30;
const LOST: QmpFailure = { kind: 'disconnected', sentence: 'the connection broke before it answered' };
const NEVER_SENT: QmpFailure = { kind: 'unreachable', sentence: 'nobody listens' };

const there = (qemu: FakeQemu): [device: boolean, backend: boolean] => [
  qemu.devices.some((d) => d.data.id === 'dimm1'),
  qemu.backends.some((b) => b.id === 'mem-dimm1'),
];

/** Fails some requests: before they are done, or after, when the reply is what is lost. */
class ShakyQemu extends FakeQemu {
  readonly #prng: Prng;
  /** Of a hundred requests, how many fail. */
  shaky: number;

  constructor(prng: Prng, shaky: number) {
    super();
    this.#prng = prng;
    this.shaky = shaky;
  }

  override async execute(...args: Parameters<FakeQemu['execute']>): ReturnType<FakeQemu['execute']> {
    const fate = this.#prng.below(100);
    if (fate < this.shaky / 2) return { ok: false, error: NEVER_SENT };
    const reply = await super.execute(...args);
    if (fate >= this.shaky) return reply;
    this.log.push({ cut: 'the connection broke' });
    return { ok: false, error: LOST };
  }
}

describe('a DIMM over a connection that breaks', () => {
  it('QH35 adding: what is told is true, and trying again ends it', async () => {
    const outcomes = { ok: 0, refused: 0, unknown: 0 };
    for (let seed = 1; seed <= 200; seed++) {
      const prng = new Prng(seed);
      const qemu = new ShakyQemu(prng, prng.below(60));
      const bad = prng.below(3) === 0;
      const add: Extract<Action, { do: 'add-dimm' }> = {
        do: 'add-dimm',
        id: 'dimm1',
        memdev: 'mem-dimm1',
        bytes: GiB,
        node: bad ? 7 : 1,
        addr: 0x140000000,
      };
      for (let tries = 0; ; tries++) {
        if (tries === 5) qemu.shaky = 0;
        const said = await addDimm(qemu, add, undefined, { deadlineMs: 1000 });
        const at = `seed=${seed} tries=${tries} ${JSON.stringify(said)}`;
        if (said.ok) {
          expect(there(qemu), at).toEqual([true, true]);
          outcomes.ok++;
          break;
        }
        // Refused because an earlier try, whose reply was lost, has done it: the executor sees that by observing.
        if (said.error.errno === 'EEXIST' && there(qemu)[0]) {
          expect(tries, at).toBeGreaterThan(0);
          break;
        }
        if (said.error.kind === 'refused' && qemu.shaky === 0) {
          expect(bad, at).toBe(true);
          expect(there(qemu), at).toEqual([false, false]);
          outcomes.refused++;
          break;
        }
        outcomes.unknown++;
        expect(tries, at).toBeLessThan(8);
      }
    }
    for (const [outcome, n] of Object.entries(outcomes)) expect(n, outcome).toBeGreaterThan(20);
  });

  it('QH41 removing: what is told is true, and trying again ends it', async () => {
    const outcomes = { ok: 0, refused: 0, unknown: 0 };
    for (let seed = 1; seed <= 200; seed++) {
      const prng = new Prng(seed);
      const qemu = new ShakyQemu(prng, prng.below(40));
      qemu.dimm('dimm1', 0x140000000, GiB);
      const refusals = prng.below(3);
      let asked = 0;
      qemu.onUnplug = (id) => {
        const refuses = asked++ < refusals;
        const answer = (): void => {
          if (prng.below(2) === 0) qemu.ost('dimm9', 130);
          qemu.ost(id, 132);
          if (refuses) qemu.ost(id, 130);
          else if (prng.below(4) === 0) {
            qemu.devices = []; // the event is lost
            qemu.log.push({ cut: 'the connection broke' });
          } else qemu.gone(id);
        };
        for (const b of qemu.backends) if (b.id === 'mem-dimm1') b.busy = prng.below(2) === 0;
        if (prng.below(2) === 0) answer();
        else setTimeout(answer, 1);
      };
      for (let tries = 0; ; tries++) {
        if (tries === 5) qemu.shaky = 0;
        const port = { monitor: qemu, clock: CLOCK, notOffline: async () => ok([]) };
        const said = await removeDimm(
          port,
          { do: 'remove-dimm', id: 'dimm1', memdev: 'mem-dimm1' },
          { deadlineMs: 1000 },
        );
        const at = `seed=${seed} tries=${tries} ${JSON.stringify(said)}`;
        if (said.ok) {
          expect(there(qemu), at).toEqual([false, false]);
          outcomes.ok++;
          break;
        }
        // An earlier try, whose reply was lost, has freed the memory.
        if (said.error.errno === 'ENOENT') {
          expect(there(qemu), at).toEqual([false, false]);
          break;
        }
        if (said.error.kind === 'refused' && said.error.sentence.startsWith('the guest keeps')) {
          expect(there(qemu), at).toEqual([true, true]);
          outcomes.refused++;
        } else outcomes.unknown++;
        expect(tries, at).toBeLessThan(9);
      }
    }
    for (const [outcome, n] of Object.entries(outcomes)) expect(n, outcome).toBeGreaterThan(20);
  });
});
