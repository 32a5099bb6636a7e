// dimmer apply: does a plan to a machine that runs, or goes on with an execution that was cut off.
//
//   plan file ── read, checked ──> source ──> Host ──> look, compare ──> shown, asked y/N ──> execute ──> what was reached
//   journal ──── decoded ────────────┘                 stale: exit 3        no: nothing        │
//                                                                                              └─ journal, line by line
//   Ctrl-C, first    stops at a safe point: the step under way is given up, its unit undone; said on stderr
//           second   leaves at once, as it stands; the journal knows how to go on (--resume)
//
// Composition only: control/executor.ts does it, apply-text.ts says it.

import * as fs from 'node:fs';
import type { Command } from 'commander';
import { err, ok, type Result } from '#base/result';
import { type Progress as Event, type ExecuteOptions, execute, resume } from '#control/executor';
import type { Host } from '#control/host';
import { decodeJournal } from '#control/journal-text';
import type { ExecutionReport } from '#control/report';
import { gzip } from '#hosts/linux/gzip';
import { recordHost } from '#hosts/recording/index';
import { readPlan } from '#plan/check-plan';
import { hashLines, type Plan } from '#plan/index';
import { lockOf, openApplyJournal, openRecord } from './apply-files.ts';
import { ApplyLines, formatReport, type OnCopy } from './apply-text.ts';
import { type Complaint, EXIT } from './exit-code.ts';
import { type Io, wantsColour, widthOf } from './io.ts';
import { formatJson } from './json.ts';
import { FETCH_DEADLINE_MS } from './live-source.ts';
import { openHost, sourceOf } from './open-host.ts';
import { complain, parseTime } from './options.ts';
import { formatSteps, sayGoal } from './plan-text.ts';
import { Progress } from './progress.ts';
import { rehearsePlan } from './rehearse-plan.ts';
import { SYSTEM_CLOCK } from './system-clock.ts';
import { VERSION } from './version.ts';

type Options = {
  readonly from?: string;
  readonly journal?: string;
  readonly resume?: string;
  readonly record?: string;
  readonly dryRun?: boolean;
  readonly yes?: boolean;
  readonly apply?: boolean;
  readonly timeout?: string;
  readonly json?: boolean;
  readonly quiet?: boolean;
};

const usage = (sentence: string): Complaint => ({ exit: EXIT.USAGE, sentence });

export function addApply(program: Command, io: Io, exit: (code: number) => void): void {
  program
    .command('apply')
    .description(
      'Does a plan to a machine that runs: each step journalled, confirmed by looking, undone if its unit fails.',
    )
    .argument('[plan]', 'a plan, as dimmer plan -o writes it')
    .option(
      '--from <source>',
      'the machine: host, qemu:..., libvirt:..., proxmox:...; default: where the plan was made',
    )
    .option('--journal <file>', 'where it is written what was about to be done; default: ./dimmer-HASH.journal')
    .option('--resume <journal>', 'goes on where an execution was cut off')
    .option('-n, --dry-run', 'looks, compares, tries; changes nothing')
    .option('-y, --yes', 'does not ask; needed without a terminal')
    .option('--apply', 'needed to change the machine that dimmer runs on')
    .option('--timeout <time>', 'give up and undo after so long (90s, 5m); default: the deadline of each step')
    .option('--record <file>', 'also writes down all that was asked and answered, for a bug report')
    .option('-J, --json', 'a JSON document at the end (docs/formats/json.md)')
    .option('-q, --quiet', 'no progress on stderr')
    .addHelpText(
      'after',
      `
A machine that is not as the plan assumes is refused, untouched. A unit that fails is put back, each block into its zone; units
before it stay. Ctrl-C stops at a safe point; pressed again it leaves at once, and --resume goes on.
Exit code: 0 done; 1 failed, see the last lines; 3 the plan is stale or not feasible; 4 not possible here; 5 refused, all as
before; 64 done in part; 124 not in time, all as before; 130 interrupted, all as before.

Examples:
  dimmer apply remove.json --dry-run                       would it go through?
  dimmer apply remove.json --from qemu:vm.qmp,agent=vm.qga do it to a guest
  sudo dimmer apply remove.json --apply                    do it to this machine
  dimmer apply --resume dimmer-5f3a9c01d2e4f6aa.journal    after a crash`,
    )
    .action((file: string | undefined, options: Options) => {
      const asked = understand(io, file, options);
      if (!asked.ok) return exit(complain(io, asked.error));
      io.later?.(run(io, asked.value, options));
      exit(EXIT.OK);
    });
}

/** What is to be done, and where; nothing has been touched or connected. */
type Asked = {
  readonly plan: Plan;
  readonly host: Host;
  /** As --from names it. */
  readonly source: string;
  /** Of a cut-off execution. */
  readonly journalText: string | undefined;
  readonly journal: string;
};

function understand(io: Io, file: string | undefined, options: Options): Result<Asked, Complaint> {
  const no = (sentence: string): Result<never, Complaint> => err(usage(sentence));
  if ((file === undefined) === (options.resume === undefined))
    return no(
      file === undefined ? 'name a plan, or a journal with --resume' : 'a plan and --resume exclude each other',
    );
  if (options.resume !== undefined && (options.dryRun === true || options.journal !== undefined))
    return no('--resume goes on with its journal: --dry-run and --journal are for plans');
  if (options.timeout !== undefined && parseTime(options.timeout) === undefined)
    return no(`--timeout takes a time, as in 90s or 5m, and at most a day; not "${options.timeout}"`);
  const text = readText(file ?? (options.resume as string)); // one of the two is there
  if (!text.ok) return text;
  const what = file === undefined ? ofJournal(options.resume as string, text.value) : ofPlan(file, text.value);
  if (!what.ok) return what;
  const { plan, named } = what.value;
  if (!plan.feasible && file !== undefined)
    return err({ exit: EXIT.NOT_FEASIBLE, sentence: `the plan does not reach its goal: ${plan.summary}` });
  const source = sourceOf(options.from, named);
  if (!source.ok) return source;
  const journal = options.resume ?? options.journal ?? `dimmer-${hashLines([JSON.stringify(plan)])}.journal`;
  if (options.resume === undefined && options.dryRun !== true && fs.existsSync(journal))
    return no(`${journal} exists: go on with it by --resume ${journal}, or name another one with --journal`);
  if (options.yes !== true && options.dryRun !== true && io.ask === undefined)
    return no('there is no terminal to ask at: say --yes');
  const host = openHost(io, source.value, { apply: options.apply === true, dryRun: options.dryRun === true });
  if (!host.ok) return host;
  return ok({
    plan,
    host: host.value,
    source: source.value,
    journal,
    journalText: file === undefined ? text.value : undefined,
  });
}

type Named = { readonly plan: Plan; readonly named: { readonly kind: string; readonly name: string } };

function ofPlan(file: string, text: string): Result<Named, Complaint> {
  const plan = readPlan(text);
  return plan.ok ? ok({ plan: plan.value, named: plan.value.host }) : err(usage(`${file}: ${plan.error}`));
}

function ofJournal(file: string, text: string): Result<Named, Complaint> {
  const decoded = decodeJournal(text);
  if (!decoded.ok) return err(usage(`${file}: ${decoded.error.sentence}`));
  const begin = decoded.value.lines[0];
  return begin?.kind === 'begin' ? ok({ plan: begin.plan, named: begin.host }) : err(usage(`${file} is no journal`));
}

function readText(file: string): Result<string, Complaint> {
  try {
    return ok(fs.readFileSync(file, 'utf8'));
  } catch (e) {
    const code = (e as NodeJS.ErrnoException).code;
    if (code === undefined) throw e; // not the system's: a bug
    return err(usage(`${file} cannot be read (${code})`));
  }
}

async function run(io: Io, asked: Asked, options: Options): Promise<number> {
  const recorder = options.record === undefined ? undefined : openRecord(options.record);
  if (recorder?.ok === false) return complain(io, recorder.error);
  const pack = { gzip, toolVersion: VERSION };
  const host = recorder === undefined ? asked.host : recordHost(asked.host, recorder.value.append, { pack });
  const stop = new AbortController();
  const release = io.onInterrupt?.(() => {
    stop.abort();
    const again =
      options.dryRun === true ? '' : `; again to leave at once: then dimmer apply --resume ${asked.journal} goes on`;
    io.err(`\ndimmer: stopping at a safe point, what is under way is undone${again}\n`);
  });
  try {
    return await carryOut(io, { ...asked, host }, options, stop);
  } finally {
    release?.();
    await host.close();
    recorder?.value.close();
  }
}

/** Looks, asks, does, reports. @returns the exit code */
async function carryOut(io: Io, asked: Asked, options: Options, stop: AbortController): Promise<number> {
  const { plan, host, source, journal, journalText } = asked;
  const style = { colour: wantsColour(io), width: widthOf(io) };
  const say = (text: string): void => {
    if (options.json !== true) io.out(text);
  };
  const done = (report: ExecutionReport, journalled: boolean, copy?: OnCopy): number => {
    const words = source === 'host' ? '' : ` --from ${source}`;
    const written = journalled && fs.existsSync(journal) ? { journal } : {};
    if (options.json === true) io.out(formatJson('apply', { source, goal: plan.goal, ...written, ...report, copy }));
    else
      io.out(
        `\n${formatReport(report, { plan, source: words, ...written, ...(copy === undefined ? {} : { copy }), ...style })}`,
      );
    return report.exitCode;
  };
  const common = { clock: SYSTEM_CLOCK, signal: stop.signal };
  say(
    `${source}, as the plan has it: Linux ${plan.host.kernel}\n${sayGoal(plan.goal)}: ${plan.summary}\n\n${formatSteps(plan, style)}\n`,
  );

  if (journalText === undefined) {
    // Before anybody is asked: a plan that is stale, or not for this machine, is told at once.
    const looked = await execute(plan, host, { ...common, journal: NO_JOURNAL, dryRun: true });
    for (const note of looked.notes) io.err(`note: ${note}\n`);
    if (looked.end !== 'done') return done(looked, false);
    if (options.dryRun === true) {
      const copy = await tryOnCopy(io, plan, host, options, stop.signal);
      return done(copy.goes === false ? { ...looked, exitCode: EXIT.NOT_FEASIBLE } : looked, false, copy);
    }
  }
  if (options.yes !== true) {
    const answer = await io.ask?.(`Do it on ${source}? [y/N] `);
    if (!/^y(es)?$/i.test(answer?.trim() ?? '')) {
      io.err('dimmer: nothing was done\n');
      return EXIT.INTERRUPTED;
    }
  }
  const opened = await openApplyJournal(journal, journalText !== undefined);
  if (!opened.ok) return complain(io, opened.error);
  const timed = timeOut(options.timeout, stop);
  const lines = new ApplyLines(plan, style);
  const progress = new Progress(io, options.quiet === true || options.json === true);
  // A line that wraps cannot be rewritten; " ..." is added to it.
  const room = Math.max(20, (style.width ?? 80) - 5);
  const execution: ExecuteOptions = {
    ...common,
    journal: opened.value.sink,
    lock: lockOf(io, source),
    onProgress: (e: Event) => {
      const live = lines.live(e);
      const lasting = lines.lasting(e, SYSTEM_CLOCK.nowMs());
      if (live === '' || lasting !== '') progress.end();
      if (lasting !== '') say(lasting);
      if (live !== undefined && live !== '') progress.say(live.slice(0, room));
    },
  };
  try {
    if (journalText === undefined) return done(timed.told(await execute(plan, host, execution)), true);
    const resumed = await resume(opened.value.text, host, execution);
    if (resumed.ok) return done(timed.told(resumed.value), true);
    return complain(io, usage(`${journal}: ${resumed.error.sentence}`));
  } finally {
    progress.end();
    timed.over();
    await opened.value.close();
  }
}

/** The end of a dry run: what a copy of the machine makes of the plan. */
async function tryOnCopy(io: Io, plan: Plan, host: Host, options: Options, signal: AbortSignal): Promise<OnCopy> {
  const progress = new Progress(io, options.quiet === true);
  progress.say('trying on a copy');
  const deadlineMs = parseTime(options.timeout ?? '') ?? FETCH_DEADLINE_MS;
  const tried = await rehearsePlan(plan, host, { deadlineMs, signal });
  progress.end();
  if (!tried.ok) return { sentence: tried.error };
  return { goes: tried.value.end === 'done', sentence: tried.value.sentence };
}

/** --timeout is Ctrl-C by the clock; only the report is another one. */
function timeOut(
  text: string | undefined,
  stop: AbortController,
): {
  readonly told: (r: ExecutionReport) => ExecutionReport;
  readonly over: () => void;
} {
  const ms = text === undefined ? undefined : parseTime(text);
  let late = false;
  const timer =
    ms === undefined
      ? undefined
      : setTimeout(() => {
          late = true;
          stop.abort();
        }, ms);
  return {
    told: (r) => {
      if (!late || r.end !== 'interrupted') return r;
      const some = r.units.some((u) => u.outcome === 'done' || u.outcome === 'short');
      const sentence = `--timeout ${text} is over: ${r.sentence}`;
      return some
        ? { ...r, end: 'partial', exitCode: EXIT.PARTIAL, sentence }
        : { ...r, end: 'deadline', exitCode: EXIT.DEADLINE, sentence };
    },
    over: () => clearTimeout(timer),
  };
}

const NO_JOURNAL = { append: () => Promise.resolve(ok(undefined)) };
