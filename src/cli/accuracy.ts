// npm run accuracy -- TABLE.csv [--json] [--strict]: dimmer's verdicts beside what Linux did, row by row.
//
//   TABLE.csv               one row for each attempt (twin/accuracy.ts)
//   CAPTURE/LOAD-before/    the machine shortly before: a snapshot folder, or any other thing that readCapture takes
//   PAGES_FILE (*.kpf.gz)   the block's own page flags just before the attempt; *.kpc.gz beside it the map counts.
//                           They replace the block's part of the snapshot, which is older.
//
// Exit 0: judged. 1: --strict, and a goal is missed. 2: the table or something it names cannot be read (one sentence).
// Rows are judged snapshot by snapshot, so that one machine at a time is in memory. Cost about 0.1 s a row for 4 GiB.

import * as fs from 'node:fs';
import * as path from 'node:path';
import { parseArgs } from 'node:util';
import { err, ok, type Result } from '#base/result';
import { toBlockId } from '#base/units';
import type { Capture } from '#capture/capture';
import { overlay, type PageRuns, RunBuilder, runsOf } from '#capture/page-runs';
import { readCapture } from '#hosts/linux/read-capture';
import { readGzipWords } from '#hosts/linux/root';
import { readMemoryBlocks } from '#kernfs/memory-blocks';
import {
  GOALS,
  type GoalName,
  type Judged,
  missedGoals,
  parseTruthTable,
  type Ratio,
  rightAbout,
  type Said,
  type Score,
  score,
  shareOf,
  type TruthRow,
} from '#twin/accuracy';
import { buildTwin } from '#twin/build';
import { Judge } from '#twin/verdict';

const USAGE = 'usage: npm run accuracy -- TABLE.csv [--json] [--strict]';

function main(): number {
  let table: string | undefined;
  let json = false;
  let strict = false;
  try {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: { json: { type: 'boolean' }, strict: { type: 'boolean' } },
    });
    json = values.json === true;
    strict = values.strict === true;
    if (positionals.length === 1) table = positionals[0];
  } catch {
    // An unknown option: the usage line says what there is.
  }
  if (table === undefined) return complain(USAGE);

  const rows = readTable(table);
  if (!rows.ok) return complain(rows.error);
  const judged = judgeTable(path.dirname(table), rows.value);
  if (!judged.ok) return complain(judged.error);

  const total = score('all', judged.value);
  const scores = [...groupBy(judged.value, (j) => j.row.capture)].map(([name, group]) => score(name, group));
  const misses = judged.value.filter((j) => !rightAbout(j));
  const missed = missedGoals(total);
  const text = json ? asJson(total, scores, misses, missed) : asText(total, scores, misses, missed);
  process.stdout.write(`${text}\n`);
  return strict && missed.length > 0 ? 1 : 0;
}

function complain(sentence: string): number {
  process.stderr.write(`${sentence}\n`);
  return 2;
}

// --------------------------------------------------------------------------------------------------------- judging

function readTable(file: string): Result<TruthRow[], string> {
  let text: string;
  try {
    text = fs.readFileSync(file, 'utf8');
  } catch (e) {
    return err(`${file} cannot be read: ${(e as NodeJS.ErrnoException).code ?? 'failed'}.`);
  }
  const rows = parseTruthTable(text);
  return rows.ok ? rows : err(`${file}: ${rows.error}.`);
}

/** In the order of the table. */
function judgeTable(folder: string, rows: readonly TruthRow[]): Result<Judged[], string> {
  const said = new Map<TruthRow, Said>();
  for (const [snapshot, group] of groupBy(rows, (r) => path.join(folder, r.capture, `${r.load}-before`))) {
    const capture = readCapture(snapshot, { now: () => new Date(0) });
    const lines = group.length === 1 ? `line ${group[0]?.line}` : `line ${group[0]?.line} and ${group.length - 1} more`;
    if (!capture.ok) return err(`${lines}: ${capture.error.sentence}`);
    for (const row of group) {
      const answer = judgeRow(folder, capture.value, row);
      if (!answer.ok) return err(`line ${row.line}: ${answer.error}`);
      said.set(row, answer.value);
    }
  }
  return ok(rows.map((row) => ({ row, said: said.get(row) as Said }))); // every row is in one group
}

function judgeRow(folder: string, capture: Capture, row: TruthRow): Result<Said, string> {
  const own = withOwnPages(folder, capture, row);
  if (!own.ok) return own;
  // Pageblock types do not change a verdict; the quick guess at them is good enough (test/accuracy.test.ts shows it).
  const twin = buildTwin(own.value, { types: 'contents' });
  if (!twin.ok) return err(`${capture.origin.name}: ${twin.error.message}.`);
  const v = new Judge(twin.value).judge(toBlockId(row.block));
  if (v?.verdict === undefined) {
    const reason = v === undefined ? 'the snapshot does not list it' : `the snapshot says ${v.state}`;
    return ok({ verdict: 'maybe', code: 'unknown-block', errno: undefined, reason: `not judged: ${reason}` });
  }
  return ok({ verdict: v.verdict, code: v.code, errno: v.errno, reason: v.reason });
}

/**
 * The snapshot with the block's part of kpageflags and kpagecount replaced by what was read just before the attempt.
 * A snapshot without page flags is taken to be free elsewhere: what is in the block decides.
 */
function withOwnPages(folder: string, capture: Capture, row: TruthRow): Result<Capture, string> {
  if (row.pagesFile === '') return ok(capture);
  const memory = readMemoryBlocks(capture.tree);
  if (!memory.ok) return err(`${capture.origin.name}: ${memory.error.reason}.`);
  const blockPages = memory.value.blockSizeBytes / 4096;
  const file = path.join(folder, row.pagesFile);
  const flags = readPages(file, blockPages);
  if (!flags.ok) return flags;
  const { kpageflags, kpagecount, ...rest } = capture;
  const blocks = Math.max(row.block, ...memory.value.blocks.map((b) => b.id)) + 1;
  const around = kpageflags ?? runsOf([[BUDDY, 0, blocks * blockPages]]);
  const own = { ...rest, kpageflags: laid(around, row.block * blockPages, flags.value, NOPAGE) };
  if (kpagecount === undefined) return ok(own);
  const countsFile = file.replace(/\.kpf\.gz$/, '.kpc.gz');
  if (countsFile === file || !fs.existsSync(countsFile)) return ok({ ...own, kpagecount });
  const counts = readPages(countsFile, blockPages);
  if (!counts.ok) return counts;
  return ok({ ...own, kpagecount: laid(kpagecount, row.block * blockPages, counts.value, 0) });
}

const BUDDY = 1 << 10;
const NOPAGE = 1 << 20;

/** `patch` over `runs`; a gap before it, as after a snapshot that ends earlier, is filled with `filler`. */
function laid(runs: PageRuns, startPfn: number, patch: PageRuns, filler: number): PageRuns {
  const gap = runsOf([[filler, 0, Math.max(0, startPfn - runs.endPfn)]]);
  return overlay(overlay(runs, runs.endPfn, gap), startPfn, patch);
}

function readPages(file: string, blockPages: number): Result<PageRuns, string> {
  const builder = new RunBuilder();
  const failure = readGzipWords(file, (pairs, frames) => builder.push(pairs, frames));
  if (failure !== undefined) return err(`${file} cannot be read: ${failure.detail}.`);
  const runs = builder.finish();
  // Fewer frames than a block has: the kernel's file ended there, and the snapshot says what follows.
  if (runs.endPfn > 0 && runs.endPfn <= blockPages) return ok(runs);
  return err(`${file} has ${runs.endPfn} frames; a memory block of this machine has ${blockPages}.`);
}

function groupBy<T>(items: readonly T[], keyOf: (item: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>();
  for (const item of items) {
    const key = keyOf(item);
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [item]);
    else group.push(item);
  }
  return groups;
}

// -------------------------------------------------------------------------------------------------------- printing

const show = (r: Ratio): string => {
  const value = shareOf(r);
  return value === undefined ? '      -' : `${(100 * value).toFixed(1).padStart(6)}%`;
};

function asText(
  total: Score,
  scores: readonly Score[],
  misses: readonly Judged[],
  missed: readonly GoalName[],
): string {
  const width = Math.max(7, ...scores.map((s) => s.name.length));
  const title = (first: string): string =>
    `${first.padEnd(width)}  rows  taken refused endless | no: prec. recall   errno | yes: prec. recall | maybe`;
  const line = (s: Score): string =>
    `${s.name.padEnd(width)} ${String(s.rows).padStart(5)} ${String(s.taken).padStart(6)} ` +
    `${String(s.refused).padStart(7)} ${String(s.endless).padStart(7)} |  ${show(s.noPrecision)} ${show(s.noRecall)} ` +
    `${show(s.errno)} |   ${show(s.yesPrecision)} ${show(s.yesRecall)} | ${show(s.maybe)}`;
  const out = [title('capture'), ...scores.map(line), line(total), ''];
  out.push(misses.length === 0 ? 'No row was missed.' : `${misses.length} of ${total.rows} rows were missed:`);
  for (const { row, said } of misses) {
    const linux = row.outcome === 'taken' ? 'ok' : row.errno;
    out.push(
      `  ${row.capture} ${row.load}, block ${row.block}: Linux ${linux}, dimmer ${said.verdict}` +
        `${said.errno === undefined ? '' : ` ${said.errno}`} (${said.code}: ${said.reason})`,
    );
  }
  out.push('');
  out.push(
    missed.length === 0
      ? 'All goals are met.'
      : `Goals missed: ${missed.map((g) => `${g} ${show(total[g]).trim()} (goal ${100 * GOALS[g]}%)`).join(', ')}.`,
  );
  return out.join('\n');
}

function asJson(
  total: Score,
  scores: readonly Score[],
  misses: readonly Judged[],
  missed: readonly GoalName[],
): string {
  const plain = (s: Score): unknown => ({
    ...s,
    noPrecision: withValue(s.noPrecision),
    noRecall: withValue(s.noRecall),
    yesPrecision: withValue(s.yesPrecision),
    yesRecall: withValue(s.yesRecall),
    maybe: withValue(s.maybe),
    errno: withValue(s.errno),
  });
  return JSON.stringify(
    {
      version: 1,
      goals: GOALS,
      goalsMissed: missed,
      total: plain(total),
      captures: scores.map(plain),
      misses: misses.map(({ row, said }) => ({ ...row, said })),
    },
    undefined,
    2,
  );
}

const withValue = (r: Ratio): Ratio & { value: number | null } => ({ ...r, value: shareOf(r) ?? null });

process.exitCode = main();
