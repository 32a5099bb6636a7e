// Accuracy: verdicts beside what Linux did. A truth table has one row for each real attempt to take a block offline.
//
//   capture,load,block,result,errno,pages_file            columns that are read, by name; others are ignored
//   busy-plain,fresh,5,ok,0(0),busy-plain/fresh-pages/mem5.kpf.gz
//
//   Linux:    taken = ok    refused = EBUSY or EINVAL, at once    endless = EINTR: retried until a signal came
//   verdict:  yes           no                                    maybe
//
//   no   precision = refused among verdicts no      recall = verdicts no among refused
//   yes  precision = taken among verdicts yes       recall = verdicts yes among taken
//   errno accuracy = the same errno among the verdicts no that were right; maybe share = verdicts maybe of all
//
// A miss is a row whose verdict is another one than Linux's answer deserves, or a `no` with the wrong errno. `maybe`
// for an endless row is right: something that page flags cannot show kept it from ending. Anything else that Linux
// answered (a notifier's errno, say) counts as refused: it did not try again.
// Source: spec 3.1, 3.2; the goals are dimmer's own promise (docs/fidelity.md).

import { err, ok, type Result } from '#base/result';
import type { Verdict, VerdictCode } from './verdict.ts';

export type Outcome = 'taken' | 'refused' | 'endless';

/** One attempt, as the table tells it. */
export type TruthRow = {
  /** 1-based line of the table. */
  readonly line: number;
  readonly kernel: string;
  /** Folder of the capture, relative to the table's. */
  readonly capture: string;
  /** The machine as it was is in CAPTURE/LOAD-before. */
  readonly load: string;
  readonly block: number;
  readonly outcome: Outcome;
  /** "EBUSY"; empty when the block was taken. */
  readonly errno: string;
  /** The block's own page flags just before the attempt, relative to the table's folder; empty where there are none. */
  readonly pagesFile: string;
};

/** What dimmer said of a row's block. */
export type Said = {
  readonly verdict: Verdict;
  readonly code: VerdictCode | 'unknown-block';
  readonly errno: string | undefined;
  readonly reason: string;
};

export type Judged = { readonly row: TruthRow; readonly said: Said };

export type Ratio = { readonly hits: number; readonly of: number };

export type Score = {
  readonly name: string;
  readonly rows: number;
  readonly taken: number;
  readonly refused: number;
  readonly endless: number;
  readonly noPrecision: Ratio;
  readonly noRecall: Ratio;
  readonly yesPrecision: Ratio;
  readonly yesRecall: Ratio;
  readonly maybe: Ratio;
  readonly errno: Ratio;
};

/** What `--strict` asks for; `maybe` is a most, all others a least. */
export const GOALS = {
  noPrecision: 0.99,
  noRecall: 0.99,
  errno: 0.99,
  yesPrecision: 0.96,
  yesRecall: 0.99,
  maybe: 0.04,
} as const;
export type GoalName = keyof typeof GOALS;

/** A ratio of nothing is met, not missed: a table without refusals says nothing about `no`. */
export const shareOf = (r: Ratio): number | undefined => (r.of === 0 ? undefined : r.hits / r.of);

/** Goals that the score does not meet. */
export function missedGoals(score: Score): GoalName[] {
  return (Object.keys(GOALS) as GoalName[]).filter((name) => {
    const value = shareOf(score[name]);
    return value !== undefined && (name === 'maybe' ? value > GOALS[name] : value < GOALS[name]);
  });
}

export const rightAbout = ({ row, said }: Judged): boolean => {
  if (row.outcome === 'taken') return said.verdict === 'yes';
  if (row.outcome === 'endless') return said.verdict === 'maybe';
  return said.verdict === 'no' && said.errno === row.errno;
};

export function score(name: string, judged: readonly Judged[]): Score {
  const count = (outcome: Outcome | undefined, verdict: Verdict | undefined): number =>
    judged.filter(
      ({ row, said }) =>
        (outcome === undefined || row.outcome === outcome) && (verdict === undefined || said.verdict === verdict),
    ).length;
  const rightNo = judged.filter(({ row, said }) => row.outcome === 'refused' && said.verdict === 'no');
  return {
    name,
    rows: judged.length,
    taken: count('taken', undefined),
    refused: count('refused', undefined),
    endless: count('endless', undefined),
    noPrecision: { hits: rightNo.length, of: count(undefined, 'no') },
    noRecall: { hits: rightNo.length, of: count('refused', undefined) },
    yesPrecision: { hits: count('taken', 'yes'), of: count(undefined, 'yes') },
    yesRecall: { hits: count('taken', 'yes'), of: count('taken', undefined) },
    maybe: { hits: count(undefined, 'maybe'), of: judged.length },
    errno: { hits: rightNo.filter(({ row, said }) => said.errno === row.errno).length, of: rightNo.length },
  };
}

// ------------------------------------------------------------------------------------------------------- the table

const NEEDED = ['capture', 'load', 'block', 'result', 'errno'] as const;

/**
 * Rows of a truth table in comma-separated values (RFC 4180: CRLF or LF, quoted fields may hold both).
 *
 * @returns the rows in the order of the table, or one sentence that names the line
 */
export function parseTruthTable(text: string): Result<TruthRow[], string> {
  const records = recordsOf(text.replace(/^\uFEFF/, ''));
  if (!records.ok) return records;
  const [head, ...body] = records.value;
  if (head === undefined) return err('the table is empty: it needs a line of column names');
  const missing = NEEDED.filter((name) => !head.fields.includes(name));
  if (missing.length > 0) return err(`the table has no column ${missing.join(', no column ')}`);
  const rows: TruthRow[] = [];
  for (const { line, fields } of body) {
    if (fields.length !== head.fields.length) {
      return err(`line ${line} has ${fields.length} fields, the line of column names has ${head.fields.length}`);
    }
    const cell = (name: string): string => fields[head.fields.indexOf(name)] ?? '';
    const row = rowOf(line, cell);
    if (!row.ok) return row;
    rows.push(row.value);
  }
  if (rows.length === 0) return err('the table has column names and no rows');
  return ok(rows);
}

function rowOf(line: number, cell: (name: string) => string): Result<TruthRow, string> {
  const block = Number(cell('block'));
  if (!/^\d+$/.test(cell('block')) || !Number.isSafeInteger(block)) {
    return err(`line ${line}: block "${cell('block')}" is not a number`);
  }
  if (cell('capture') === '' || cell('load') === '') return err(`line ${line}: capture and load must not be empty`);
  const taken = cell('result') === 'ok';
  // "16(EBUSY)", "EBUSY" and "16" mean the same.
  const shown = /^(?:(\d+))?\(?([A-Z]\w*)?\)?$/.exec(cell('errno').trim());
  const errno = shown?.[2] ?? ERRNO_NAMES[shown?.[1] ?? ''] ?? '';
  if (!taken && errno === '') {
    return err(
      `line ${line}: result "${cell('result')}" with errno "${cell('errno')}": neither ok nor a known refusal`,
    );
  }
  return ok({
    line,
    kernel: cell('kernel'),
    capture: cell('capture'),
    load: cell('load'),
    block,
    outcome: taken ? 'taken' : errno === 'EINTR' ? 'endless' : 'refused',
    errno: taken ? '' : errno,
    pagesFile: cell('pages_file'),
  });
}

const ERRNO_NAMES: Readonly<Record<string, string>> = {
  '4': 'EINTR',
  '12': 'ENOMEM',
  '16': 'EBUSY',
  '22': 'EINVAL',
};

type Record_ = { readonly line: number; readonly fields: readonly string[] };

/** Records with the line each begins on; empty lines are no records. */
function recordsOf(text: string): Result<Record_[], string> {
  const out: Record_[] = [];
  let fields: string[] = [];
  let at = 0;
  let line = 1;
  let began = 1;
  while (at < text.length) {
    let field = '';
    if (text[at] === '"') {
      const opened = line;
      for (at++; ; at++) {
        if (at >= text.length) return err(`line ${opened}: a quoted field does not end`);
        if (text[at] === '"' && text[at + 1] === '"') at++;
        else if (text[at] === '"') break;
        if (text[at] === '\n') line++;
        field += text[at];
      }
      at++;
    }
    while (at < text.length && text[at] !== ',' && text[at] !== '\n') field += text[at++];
    fields.push(field.replace(/\r$/, ''));
    if (text[at] === ',' && at + 1 < text.length) {
      at++;
      continue;
    }
    if (text[at] === ',') fields.push(''); // the text ends with a comma: the last field is empty
    if (fields.length > 1 || fields[0] !== '') out.push({ line: began, fields });
    fields = [];
    at++;
    began = ++line;
  }
  return ok(out);
}
