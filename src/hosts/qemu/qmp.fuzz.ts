// Random traffic against what any reader can check: lines cut anywhere, answers in any order, garbage and events between
// them, cuts at any time. Each request names itself, and its answer must be its own.

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { fakeAgent, fakeQemu, type Peer, type Request, reply } from '../../../test/support/line-server.ts';
import type { QmpEvent } from './events.ts';
import { LineSplitter } from './line-channel.ts';
import { AgentSocket } from './qga.ts';
import { QmpMonitor } from './qmp.ts';

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** The chunks in which a text might arrive. */
function chunksOf(prng: Prng, bytes: Buffer): Buffer[] {
  const chunks: Buffer[] = [];
  for (let at = 0; at < bytes.length; ) {
    const n = 1 + prng.below(prng.below(4) === 0 ? bytes.length : 12);
    chunks.push(bytes.subarray(at, at + n));
    at += n;
  }
  return chunks;
}

describe('random traffic', () => {
  it('QM6 lines cut anywhere are the lines of the whole text', () => {
    for (let seed = 1; seed <= 400; seed++) {
      const prng = new Prng(seed);
      const alphabet = 'ab\u00e9\r\n\n';
      let text = '';
      for (let k = prng.below(200); k > 0; k--) text += alphabet[prng.below(alphabet.length)];
      // The naive reader: has it all, and splits.
      const whole = text.split('\n').slice(0, -1);
      const expected = whole.map((l) => l.replace(/\r$/, ''));
      const got: string[] = [];
      const splitter = new LineSplitter(1000);
      for (const chunk of chunksOf(prng, Buffer.from(text)))
        expect(
          splitter.push(chunk, (line) => got.push(line.toString())),
          `seed=${seed}`,
        ).toBe(true);
      expect(got, `seed=${seed}`).toEqual(expected);
    }
  });

  it('QM6 a line is refused exactly when it is longer than allowed, however it is cut', () => {
    for (let seed = 1; seed <= 400; seed++) {
      const prng = new Prng(seed);
      const max = 1 + prng.below(30);
      const lengths = Array.from({ length: 1 + prng.below(5) }, () => prng.below(max + 2));
      const text = lengths.map((n) => `${'x'.repeat(n)}\n`).join('');
      const splitter = new LineSplitter(max);
      const good = chunksOf(prng, Buffer.from(text)).every((chunk) => splitter.push(chunk, () => undefined));
      expect(good, `seed=${seed} max=${max} lengths=${lengths.join()}`).toBe(lengths.every((n) => n <= max));
    }
  });

  it('QM4 QM7 QM8 each request gets its own answer and a listener every event in order, whatever comes between', async () => {
    for (let seed = 1; seed <= 12; seed++) {
      const prng = new Prng(seed);
      const sent: number[] = [];
      const waiting: Request[] = [];
      const of = 40;
      let answered = 0;
      let events = 0;
      const server = await fakeQemu((request, peer) => {
        waiting.push(request);
        // Some of what waits is answered now, in any order, with events and garbage between; all of it at the end.
        let text = '';
        while (waiting.length > 0 && (answered + waiting.length === of || prng.below(3) > 0)) {
          const [r] = waiting.splice(prng.below(waiting.length), 1);
          if (prng.below(3) === 0) {
            sent.push(events);
            text += `{"event": "E", "data": {"n": ${events++}}}\r\n`;
          }
          if (prng.below(5) === 0)
            text += ['%%\n', '{"id": "dimmer-999999", "return": 0}\n', '\n', '{"return": 1}\n'][prng.below(4)];
          const body =
            prng.below(4) === 0
              ? { error: { class: 'GenericError', desc: `no ${r?.arguments?.n}` } }
              : { return: r?.arguments?.n };
          text += `${JSON.stringify({ ...body, id: r?.id })}\r\n`;
          answered++;
        }
        for (const chunk of chunksOf(prng, Buffer.from(text))) peer.send(chunk);
      });
      const monitor = new QmpMonitor({ kind: 'unix', path: server.path });
      const listener = monitor.listen();
      const all = await Promise.all(
        Array.from({ length: of }, (_, n) => monitor.execute('qom-get', { n }, { deadlineMs: 10_000 })),
      );
      all.forEach((r, n) => {
        if (r.ok) expect(r.value, `seed=${seed}`).toBe(n);
        else expect(r.error.evidence, `seed=${seed}`).toEqual([`GenericError: no ${n}`]);
      });
      const heard: unknown[] = [];
      while (heard.length < sent.length) {
        const e = await listener.next(() => true, { deadlineMs: 2000 });
        if (!e.ok) throw new Error(`seed=${seed}: ${e.error.sentence}`);
        heard.push((e.value as QmpEvent).data.n);
      }
      expect(heard, `seed=${seed}`).toEqual(sent);
      await monitor.close();
      await server.close();
    }
  });

  it('QM10 QM13 with cuts and deadlines at any time, an answer is never another request’s', async () => {
    let cuts = 0;
    for (let seed = 1; seed <= 10; seed++) {
      const prng = new Prng(seed);
      const server = await fakeQemu((request, peer) => {
        const text = `${JSON.stringify({ return: request.arguments?.n, id: request.id })}\r\n`;
        const dice = prng.below(12);
        if (dice === 0) return peer.cut();
        if (dice === 1) return; // never
        const send = (): void => {
          for (const chunk of chunksOf(prng, Buffer.from(text))) peer.send(chunk);
        };
        if (dice < 5) setTimeout(send, prng.below(30));
        else send();
      });
      const monitor = new QmpMonitor({ kind: 'unix', path: server.path });
      for (let n = 0; n < 40; n += 2) {
        const limits = { deadlineMs: 5 + prng.below(25) };
        const both = await Promise.all([n, n + 1].map((k) => monitor.execute('qom-get', { n: k }, limits)));
        both.forEach((r, k) => {
          if (r.ok) expect(r.value, `seed=${seed} n=${n}`).toBe(n + k);
          else expect(['timeout', 'disconnected', 'unreachable'], `seed=${seed}`).toContain(r.error.kind);
          if (!r.ok && r.error.kind === 'disconnected') cuts++;
        });
      }
      // Safety, then liveness: left in peace, it answers.
      const end = await monitor.execute('qom-get', { n: 'end' }, { deadlineMs: 50 });
      if (end.ok) expect(end.value, `seed=${seed}`).toBe('end');
      await monitor.close();
      await server.close();
    }
    expect(cuts).toBeGreaterThan(10);
  });

  it('QA1 QA5 with late, lost and cut answers at any time, an agent’s answer is never another request’s', async () => {
    let late = 0;
    for (let seed = 1; seed <= 10; seed++) {
      const prng = new Prng(seed);
      let calm = false;
      // An answer that is late holds up all later ones, syncs included.
      const server = await fakeAgent(async (request, peer: Peer) => {
        const dice = calm ? 99 : prng.below(12);
        const bytes = Buffer.from(reply(request.arguments?.n));
        if (dice === 0) return peer.cut();
        if (dice === 1) return; // the agent was restarted: never
        if (dice === 2) return peer.send(bytes.subarray(0, prng.below(bytes.length))); // and restarted while it answered
        if (dice < 6) await pause(prng.below(30));
        for (const chunk of chunksOf(prng, bytes)) peer.send(chunk);
      });
      const agent = new AgentSocket({ kind: 'unix', path: server.path });
      for (let n = 0; n < 40; n++) {
        const limits = { deadlineMs: 8 + prng.below(30) };
        const r = await agent.execute('guest-exec', { n }, limits);
        if (r.ok) expect(r.value, `seed=${seed} n=${n}`).toBe(n);
        else
          expect(['timeout', 'disconnected', 'unreachable'], `seed=${seed}: ${r.error.sentence}`).toContain(
            r.error.kind,
          );
        if (!r.ok && r.error.kind === 'timeout') late++;
      }
      calm = true;
      const end = await agent.execute('guest-exec', { n: 'end' }, { deadlineMs: 5000 });
      expect(end, `seed=${seed}`).toEqual({ ok: true, value: 'end' });
      await agent.close();
      await server.close();
    }
    expect(late).toBeGreaterThan(10);
  });
});
