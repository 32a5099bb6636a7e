// The report of a conformance run: a row a recording, then what is wrong, with both values.

import type { Result } from '#base/result';
import { EXCUSES, type Excuse, type Tally } from './tally.ts';

export type Outcome = { readonly name: string; readonly result: Result<Tally, string> };

/** Goal: at most so much of what was compared is excused. */
export const EXCUSED_GOAL = 0.02;

export type Totals = {
  readonly compared: number;
  readonly equal: number;
  readonly excused: number;
  readonly wrong: number;
  readonly undetermined: number;
  readonly unreadable: number;
};

export function totalsOf(outcomes: readonly Outcome[]): Totals {
  const sum = (of: (t: Tally) => number): number =>
    outcomes.reduce((n, o) => n + (o.result.ok ? of(o.result.value) : 0), 0);
  return {
    compared: sum((t) => t.compared),
    equal: sum((t) => t.equal),
    excused: sum((t) => t.excusedCount),
    wrong: sum((t) => t.wrong.length),
    undetermined: sum((t) => t.undetermined),
    unreadable: outcomes.filter((o) => !o.result.ok).length,
  };
}

const MAX_WRONG = 20;

/** @param all  every wrong comparison, not only the first of each recording */
export function reportText(outcomes: readonly Outcome[], all = false): string {
  const width = Math.max(9, ...outcomes.map((o) => o.name.length));
  const row = (name: string, cells: readonly (string | number)[]): string =>
    `${name.padEnd(width)}${cells.map((c) => String(c).padStart(10)).join('')}`;
  const out = [row('recording', ['compared', 'equal', 'excused', 'wrong', 'open'])];
  for (const { name, result } of outcomes) {
    if (!result.ok) out.push(`${name.padEnd(width)}  cannot be replayed: ${result.error}`);
    else {
      const t = result.value;
      out.push(row(name, [t.compared, t.equal, t.excusedCount, t.wrong.length, t.undetermined]));
    }
  }
  const total = totalsOf(outcomes);
  out.push(row('all', [total.compared, total.equal, total.excused, total.wrong, total.undetermined]), '');
  out.push('open: not determined by the operations, so not compared');
  const excuses = new Map<Excuse, number>();
  for (const { result } of outcomes) {
    if (!result.ok) continue;
    for (const [name, n] of result.value.excused) excuses.set(name, (excuses.get(name) ?? 0) + n);
  }
  for (const [name, n] of excuses) out.push(`excused ${n}: ${name}: ${EXCUSES[name]}`);
  for (const { name, result } of outcomes) {
    if (!result.ok || result.value.wrong.length === 0) continue;
    const shown = all ? result.value.wrong : result.value.wrong.slice(0, MAX_WRONG);
    out.push('', `${name}: ${result.value.wrong.length} wrong`);
    for (const w of shown)
      out.push(`  line ${w.line}, ${w.t} s: ${w.what}: recorded ${w.recorded}, engine ${w.engine}`);
    if (shown.length < result.value.wrong.length) out.push('  ... (--all shows the rest)');
  }
  return `${out.join('\n')}\n`;
}

export function reportJson(outcomes: readonly Outcome[]): unknown {
  return {
    format: 'dimmer-conformance',
    version: 1,
    total: totalsOf(outcomes),
    recordings: outcomes.map(({ name, result }) =>
      result.ok
        ? {
            name,
            compared: result.value.compared,
            equal: result.value.equal,
            excused: Object.fromEntries(result.value.excused),
            wrong: result.value.wrong,
            undetermined: result.value.undetermined,
            kinds: Object.fromEntries(result.value.kinds),
          }
        : { name, error: result.error },
    ),
  };
}
