// Journal text: every prefix of a journal is the journal of a crash, and nothing but a prefix is believed.

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { hashLines } from '#plan/observation';
import type { Plan } from '#plan/plan';
import type { JournalEntry } from './journal.ts';
import { replay } from './journal-replay.ts';
import { decodeJournal, JournalEncoder } from './journal-text.ts';

const action = { do: 'offline-block', block: 34 } as const;
const plan: Plan = {
  dimmer: 'plan',
  version: 1,
  goal: { verb: 'remove', target: 'dimm:Grüße' },
  host: { kind: 'twin', name: 'twin', kernel: '6.1' },
  assumes: { hash: hashLines([]), lines: [] },
  feasible: true,
  summary: 'a quote " and a {"sum":"0123456789abcdef"} inside',
  warnings: [],
  units: [
    {
      name: 'u',
      reaches: 'x',
      bytes: 1,
      steps: [
        {
          n: 1,
          title: 't',
          action,
          expect: [],
          effect: [{ is: 'block', block: 34, state: 'offline' }],
          predicts: { ms: { value: 1, provenance: 'assumed' } },
          deadlineMs: 1,
        },
      ],
    },
  ],
  rejected: [],
};
const entries: JournalEntry[] = [
  { kind: 'begin', plan, host: { kind: 'twin', name: 'twin' } },
  { kind: 'intent', step: 1, action, before: [], undo: [{ do: 'online-block', block: 34, zone: 'movable' }] },
  { kind: 'outcome', step: 1, result: 'done', sentence: 'ça va', evidence: ['a line\nend', '\u2028'] },
  { kind: 'unit', unit: 0, reached: 'x', reachedBytes: 1, whole: true },
  { kind: 'end', end: 'done', sentence: 'x', reachedBytes: 1 },
];

function written(list: readonly JournalEntry[] = entries): string[] {
  const encoder = new JournalEncoder();
  return list.map((e, k) => encoder.line(`2026-11-21T12:00:0${k}.000Z`, e));
}

describe('journal text', () => {
  it('JN1 what is written is read: entries, times and numbers', () => {
    const decoded = decodeJournal(written().join(''));
    expect(decoded.ok && decoded.value.lines).toEqual(
      entries.map((e, seq) => ({ seq, at: `2026-11-21T12:00:0${seq}.000Z`, ...e })),
    );
  });

  it('JN2 every prefix is the whole lines in it: a line without its newline is dropped, and where to cut is told', () => {
    const lines = written();
    const text = lines.join('');
    const bytesOf = (s: string): number => new TextEncoder().encode(s).length;
    for (let at = 0; at <= text.length; at++) {
      const decoded = decodeJournal(text.slice(0, at));
      let whole = 0;
      while (whole < lines.length && lines.slice(0, whole + 1).join('').length <= at) whole++;
      if (whole === 0) {
        expect(decoded).toMatchObject({ ok: false, error: { reason: 'empty' } });
        continue;
      }
      const kept = lines.slice(0, whole).join('');
      expect(decoded, `cut at ${at}`).toMatchObject({
        ok: true,
        value: { length: kept.length, bytes: bytesOf(kept), torn: at > kept.length },
      });
      if (decoded.ok) expect(decoded.value.lines.length).toBe(whole);
    }
  });

  it('JN2 zeros behind the last line, as some file systems leave them after a power cut, are a torn line', () => {
    expect(decodeJournal(`${written().join('')}${'\0'.repeat(300)}`)).toMatchObject({ value: { torn: true } });
  });

  it('JN3 a changed character anywhere, a line left out, doubled or exchanged: refused, with the line', () => {
    const lines = written();
    const text = lines.join('');
    for (let at = 0; at < text.length - 1; at++) {
      if (text[at] === '\n') continue;
      const changed = `${text.slice(0, at)}${text[at] === 'x' ? 'y' : 'x'}${text.slice(at + 1)}`;
      const line = text.slice(0, at).split('\n').length;
      const decoded = decodeJournal(changed);
      expect(decoded.ok, `at ${at}`).toBe(false);
      if (!decoded.ok) expect(decoded.error.line, `at ${at}`).toBe(line);
    }
    const at = (...order: number[]): string => order.map((k) => lines[k]).join('');
    for (const bad of [at(0, 2, 3), at(0, 1, 1, 2), at(0, 2, 1), at(1, 2), at(0, 1, 0)]) {
      expect(decodeJournal(bad)).toMatchObject({ ok: false });
    }
  });

  it('JN4 a journal goes on where it ends: the second writer’s lines are chained to the first’s', () => {
    const first = decodeJournal(written(entries.slice(0, 2)).join(''));
    if (!first.ok) throw new Error(first.error.sentence);
    const encoder = new JournalEncoder(first.value.next);
    const more = encoder.line('2026-11-21T12:00:09.000Z', { kind: 'resume' });
    const decoded = decodeJournal(written(entries.slice(0, 2)).join('') + more);
    expect(decoded).toMatchObject({ ok: true, value: { lines: [{}, {}, { seq: 2, kind: 'resume' }] } });
  });

  it('JN5 what a newer dimmer wrote, or nobody, is refused in words', () => {
    const encoder = new JournalEncoder();
    const begin = encoder.line('t', {
      kind: 'begin',
      plan: { ...plan, version: 9 } as never,
      host: { kind: '', name: '' },
    });
    expect(decodeJournal(begin)).toMatchObject({ error: { reason: 'newer', line: 1 } });
    const strange = written(entries.slice(0, 1)).join('');
    const next = new JournalEncoder(decodeNext(strange)).line('t', { kind: 'dance' } as never);
    expect(decodeJournal(strange + next)).toMatchObject({ error: { reason: 'newer', line: 2 } });
    const bad = { ...plan, units: [{ ...plan.units[0], steps: [{ ...plan.units[0]?.steps[0], deadlineMs: 'x' }] }] };
    const other = new JournalEncoder().line('t', { kind: 'begin', plan: bad as never, host: { kind: '', name: '' } });
    expect(decodeJournal(other)).toMatchObject({ error: { reason: 'damaged', line: 1 } });
    const poor = new JournalEncoder(decodeNext(strange)).line('t', { kind: 'outcome', step: 1 } as never);
    expect(decodeJournal(strange + poor)).toMatchObject({ error: { reason: 'damaged', line: 2 } });
    expect(decodeJournal('Dear diary,\n')).toMatchObject({ error: { reason: 'not-a-journal' } });
  });

  it('JN6 a line about a step, a unit or an action that the plan does not have is damage', () => {
    for (const bad of [
      { kind: 'intent', step: 7, action, before: [] },
      { kind: 'unit', unit: 3, reached: '', reachedBytes: 0, whole: true },
      { kind: 'intent', step: 1, action: { do: 'offline-block', block: 35 }, before: [] },
      { kind: 'intent', step: 1, action, before: [], undo: [{ do: 'online-block', block: 35, zone: 'movable' }] },
      { kind: 'undo', step: 1, action: { do: 'remove-dimm', id: 'd', memdev: 'm' } },
      { kind: 'keep', step: 1, action },
    ] as const) {
      const decoded = decodeJournal(written([entries[0] as JournalEntry, bad]).join(''));
      if (!decoded.ok) throw new Error(decoded.error.sentence);
      expect(replay(decoded.value.lines)).toMatchObject({ error: { reason: 'damaged', line: 2 } });
    }
  });

  it('JN3 random bytes over a journal never come through', () => {
    const text = written().join('');
    for (let seed = 1; seed <= 300; seed++) {
      const prng = new Prng(seed);
      const chars = [...text];
      for (let n = 1 + prng.below(4); n > 0; n--) {
        const at = prng.below(chars.length);
        chars[at] = String.fromCharCode(32 + (((chars[at]?.charCodeAt(0) ?? 0) + prng.below(90)) % 95));
      }
      const changed = chars.join('');
      if (changed === text) continue;
      const decoded = decodeJournal(changed);
      // A newline that became something else joins two lines: at the end of the file that is a torn line.
      const isPrefix = decoded.ok && text.startsWith(changed.slice(0, decoded.value.length));
      expect(!decoded.ok || isPrefix, `seed=${seed}`).toBe(true);
    }
  });
});

function decodeNext(text: string): { seq: number; sum: string } {
  const decoded = decodeJournal(text);
  if (!decoded.ok) throw new Error(decoded.error.sentence);
  return decoded.value.next;
}
