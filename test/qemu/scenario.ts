// What the scenarios have in common: a plan made, a plan applied, an execution resumed, and the guest's blocks as one picture.
//
//   plan(guest, ['remove', 'dimm:d0'])  ──> { file, plan, run }       the exit code is checked: 0 unless told
//   apply(guest, made.file, { code: 5 }) ──> { run, journal }          the journal read back, line by line
//
// Files lie in the guest's folder and go with it.

import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { JournalLine } from '#control/journal';
import type { Plan } from '#plan/plan';
import { type AtLine, type DimmerRun, dimmer, expectExit, readJournal, sourceOf } from './dimmer.ts';
import type { Block, Guest } from './guest.ts';
import { sleep } from './qmp.ts';

export type Made = { readonly file: string; readonly plan: Plan; readonly run: DimmerRun };
export type Applied = { readonly run: DimmerRun; readonly journal: readonly JournalLine[]; readonly file: string };

let next = 1;

export async function plan(
  guest: Guest,
  words: readonly string[],
  o: { code?: number; source?: string } = {},
): Promise<Made> {
  const file = join(guest.dir, `plan${next++}.json`);
  const source = o.source ?? sourceOf(guest);
  const run = await expectExit(o.code ?? 0, ['plan', ...words, '--from', source, '-o', file]);
  if (!existsSync(file)) throw new Error(`no plan was written: dimmer plan ${words.join(' ')}\n${run.out}\n${run.err}`);
  return { file, plan: JSON.parse(readFileSync(file, 'utf8')) as Plan, run };
}

/** The plan with other deadlines for its steps: a deadline is data, as a person may have edited it. */
export function withDeadline(made: Made, deadlineMs: number): Made {
  const units = made.plan.units.map((u) => ({ ...u, steps: u.steps.map((s) => ({ ...s, deadlineMs })) }));
  const edited = { ...made.plan, units };
  writeFileSync(made.file, JSON.stringify(edited));
  return { ...made, plan: edited };
}

/** @param o.at  a signal when the journal has that many lines; `code` is then not looked at when it is undefined */
export async function apply(
  guest: Guest,
  file: string,
  o: {
    code?: number | undefined;
    source?: string;
    journal?: string;
    at?: Omit<AtLine, 'journal'>;
    onOutput?: (text: string) => void;
  } = {},
): Promise<Applied> {
  const journal = o.journal ?? join(guest.dir, `journal${next++}`);
  const args = ['apply', file, '--from', o.source ?? sourceOf(guest), '--journal', journal, '--yes'];
  const how = {
    ...(o.at === undefined ? {} : { atLine: { journal, ...o.at } }),
    ...(o.onOutput === undefined ? {} : { onOutput: o.onOutput }),
  };
  const run = 'code' in o && o.code === undefined ? await dimmer(args, how) : await expectExit(o.code ?? 0, args, how);
  return { run, journal: readJournal(journal), file: journal };
}

export async function resume(file: string, o: { code?: number | undefined } = {}): Promise<Applied> {
  const args = ['apply', '--resume', file, '--yes'];
  const run = 'code' in o && o.code === undefined ? await dimmer(args) : await expectExit(o.code ?? 0, args);
  return { run, journal: readJournal(file), file };
}

/** "32 online Movable": state and zone, for comparing before and after. */
export const picture = (blocks: readonly Block[]): string[] => blocks.map((b) => `${b.id} ${b.state} ${b.zones}`);

/**
 * No write to a state file goes on in the guest. Seconds are allowed: busybox's timeout leaves a watcher that looks once a
 * second whether it is still needed, and the deadline of a writer whose dimmer was killed lies in the guest.
 */
export async function expectNoWriters(guest: Guest, waitMs = 5_000): Promise<void> {
  const end = performance.now() + waitMs;
  for (;;) {
    const { out } = await guest.sh('for p in $(pidof dd timeout); do tr "\\0" " " < /proc/$p/cmdline; done');
    if (out === '') return;
    if (performance.now() > end) throw new Error(`${guest.name}: still writing after ${waitMs} ms: ${out}`);
    await sleep(200);
  }
}

/** How an execution ended, as its journal says. */
export function endOf(applied: Applied): string {
  const last = applied.journal.at(-1);
  return last?.kind === 'end' ? last.end : `no end: ${last?.kind ?? 'empty'}`;
}
