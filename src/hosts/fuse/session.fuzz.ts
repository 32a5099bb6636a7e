// Random requests, sound and broken, at a session: exactly one reply to each, and at the end nothing is held.

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { FakeKernel } from '../../../test/mount/fake-kernel.ts';
import * as wire from './protocol.ts';
import { Bench, body, name, request, type Sent } from './requests.cases.ts';

const NAMES = [
  'sys',
  'proc',
  'devices',
  'system',
  'memory',
  'memory3',
  'memory2',
  'state',
  'zoneinfo',
  'kpageflags',
  'x',
];

describe('a session', () => {
  it('FU3 every request but FORGET and INTERRUPT gets exactly one reply', () => {
    for (let seed = 1; seed <= 40; seed++) {
      const prng = new Prng(seed);
      const at = `seed=${seed}`;
      const b = new Bench(new FakeKernel({ steps: 5 }));
      /** Numbers and handles that were given, besides some that were not. */
      const nodes = [1, 9999];
      const handles = [0, 9999];
      const wanted: number[] = [];
      const writes: number[] = [];
      for (let k = 0; k < 500; k++) {
        const node = prng.pick(nodes);
        const fh = prng.pick(handles);
        const any = new Uint8Array(prng.below(100)).map(() => prng.below(256));
        const what = prng.below(10);
        let sent: Sent;
        if (what < 4) sent = request('lookup', node, name(prng.pick(NAMES)));
        else if (what === 4) sent = request('open', node, body(wire.OPEN_IN, { flags: prng.below(3) }));
        else if (what === 5) sent = request('opendir', node, body(wire.OPEN_IN, {}));
        else if (what === 6)
          sent = request(
            prng.pick(['read', 'readdir']),
            node,
            body(wire.READ_IN, { fh, offset: prng.below(64), size: prng.below(200_000) }),
          );
        else if (what === 7) {
          const data = new TextEncoder().encode(prng.pick(['offline', 'online', 'junk\n']));
          sent = request('write', node, body(wire.WRITE_IN, { fh, size: data.length }), data);
          writes.push(sent.unique);
        } else if (what === 8) sent = request(1 + prng.below(50), node, any);
        else {
          const torn = request('write', node, body(wire.WRITE_IN, { fh, size: 4000 }), any);
          sent = prng.chance(0.5)
            ? torn
            : request('interrupt', 0, body(wire.INTERRUPT_IN, { unique: prng.pick([7, ...writes]) }));
        }
        const opcode = wire.IN_HEADER.read(sent.bytes, 0).opcode;
        const silent: number[] = [wire.OPCODE.forget, wire.OPCODE.batchForget, wire.OPCODE.interrupt];
        if (!silent.includes(opcode)) wanted.push(sent.unique);
        const answer = b.send(sent);
        if (answer?.errno === 0 && what < 4) nodes.push(wire.ENTRY_OUT.read(answer.body, 0).nodeid);
        if (answer?.errno === 0 && (what === 4 || what === 5)) handles.push(wire.OPEN_OUT.read(answer.body, 0).fh);
        if (prng.chance(0.3)) b.turn();
      }
      b.session.interruptAll();
      expect(
        wanted.filter((u) => !b.answers.has(u)),
        at,
      ).toEqual([]);
      expect(b.doubled, at).toBe(0);
      for (const u of b.answers.keys()) expect(wanted.includes(u) || b.answers.get(u)?.errno === 5, at).toBe(true);
      expect(b.session.held.writes, at).toBe(0);
    }
  });
});
