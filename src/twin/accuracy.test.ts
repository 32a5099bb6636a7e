import { describe, expect, it } from 'vitest';
import { type Judged, missedGoals, type Outcome, parseTruthTable, rightAbout, score, shareOf } from './accuracy.ts';
import type { Verdict } from './verdict.ts';

const HEAD = 'kernel,load,block,result,errno,capture,pages_file';
const rows = (text: string) => {
  const parsed = parseTruthTable(text);
  if (!parsed.ok) throw new Error(parsed.error);
  return parsed.value;
};
const problem = (text: string): string => {
  const parsed = parseTruthTable(text);
  return parsed.ok ? 'parsed' : parsed.error;
};

describe('the truth table', () => {
  it('A1 columns are found by name, in any order; unknown ones are passed over', () => {
    const [row] = rows(
      'x,errno,result,block,load,capture,pages_file,kernel\nfoo,16(EBUSY),fail,5,fresh,cap,p.gz,6.1\n',
    );
    expect(row).toEqual({
      line: 2,
      kernel: '6.1',
      capture: 'cap',
      load: 'fresh',
      block: 5,
      outcome: 'refused',
      errno: 'EBUSY',
      pagesFile: 'p.gz',
    });
  });

  it('A2 CRLF and LF, quoted commas, quotes and line breaks, a byte order mark, no end of the last line', () => {
    const text = `\uFEFF${HEAD},back\r\n6.1,fresh,1,ok,0(0),c,,"a ""b"", c"\r\n6.1,fresh,2,ok,0(0),c,,"two\nlines"\r\n6.1,fresh,3,ok,0(0),c,,x`;
    expect(rows(text).map((r) => [r.line, r.block])).toEqual([
      [2, 1],
      [3, 2],
      [5, 3],
    ]);
    expect(rows(`${HEAD}\n\n6.1,fresh,1,ok,0(0),c,\n\n`)).toHaveLength(1);
  });

  it('A3 an errno may be a number, a name or both; EINTR means endless, all else refused', () => {
    const outcomes = ['16(EBUSY)', 'EBUSY', '16', '4(EINTR)', '22(EINVAL)', '12'].map(
      (errno) => rows(`${HEAD}\n6.1,fresh,1,fail,${errno},c,\n`)[0],
    );
    expect(outcomes.map((r) => `${r?.outcome} ${r?.errno}`)).toEqual([
      'refused EBUSY',
      'refused EBUSY',
      'refused EBUSY',
      'endless EINTR',
      'refused EINVAL',
      'refused ENOMEM',
    ]);
  });

  it('A4 what is no table is one sentence that names the line', () => {
    expect(problem('')).toBe('the table is empty: it needs a line of column names');
    expect(problem('a,b\n1,2\n')).toBe(
      'the table has no column capture, no column load, no column block, no column result, no column errno',
    );
    expect(problem(`${HEAD}\n`)).toBe('the table has column names and no rows');
    expect(problem(`${HEAD}\n6.1,fresh,1\n`)).toBe('line 2 has 3 fields, the line of column names has 7');
    expect(problem(`${HEAD}\n6.1,fresh,x,ok,0(0),c,\n`)).toBe('line 2: block "x" is not a number');
    expect(problem(`${HEAD}\n6.1,,1,ok,0(0),c,\n`)).toBe('line 2: capture and load must not be empty');
    expect(problem(`${HEAD}\n6.1,fresh,1,fail,?,c,\n`)).toMatch(/^line 2: result "fail" with errno "\?"/);
    expect(problem(`${HEAD}\n"6.1,fresh`)).toBe('line 2: a quoted field does not end');
  });
});

describe('scores', () => {
  const judged = (outcome: Outcome, verdict: Verdict, errno = 'EBUSY', saidErrno = errno): Judged => ({
    row: { line: 0, kernel: '', capture: 'c', load: 'l', block: 0, outcome, errno, pagesFile: '' },
    said: { verdict, code: 'migrates', errno: verdict === 'no' ? saidErrno : undefined, reason: '' },
  });
  const many = (n: number, j: Judged): Judged[] => new Array<Judged>(n).fill(j);

  it('A5 precision counts among what was said, recall among what was; endless belongs to neither', () => {
    const s = score('all', [
      ...many(6, judged('taken', 'yes')),
      ...many(2, judged('taken', 'maybe')),
      ...many(3, judged('refused', 'no')),
      judged('refused', 'no', 'EBUSY', 'EINVAL'),
      judged('refused', 'yes'),
      judged('endless', 'yes', 'EINTR'),
      judged('endless', 'no', 'EINTR'),
      judged('endless', 'maybe', 'EINTR'),
    ]);
    expect(s).toMatchObject({
      rows: 16,
      taken: 8,
      refused: 5,
      endless: 3,
      noPrecision: { hits: 4, of: 5 },
      noRecall: { hits: 4, of: 5 },
      yesPrecision: { hits: 6, of: 8 },
      yesRecall: { hits: 6, of: 8 },
      maybe: { hits: 3, of: 16 },
      errno: { hits: 3, of: 4 },
    });
  });

  it('A6 right means: yes for taken, maybe for endless, no with the same errno for refused', () => {
    expect(rightAbout(judged('taken', 'yes'))).toBe(true);
    expect(rightAbout(judged('taken', 'maybe'))).toBe(false);
    expect(rightAbout(judged('endless', 'maybe', 'EINTR'))).toBe(true);
    expect(rightAbout(judged('endless', 'yes', 'EINTR'))).toBe(false);
    expect(rightAbout(judged('refused', 'no'))).toBe(true);
    expect(rightAbout(judged('refused', 'no', 'EBUSY', 'EINVAL'))).toBe(false);
    expect(rightAbout(judged('refused', 'maybe'))).toBe(false);
  });

  it('A7 goals are missed one by one, and a ratio of nothing misses none', () => {
    expect(missedGoals(score('none', []))).toEqual([]);
    expect(shareOf({ hits: 0, of: 0 })).toBeUndefined();
    expect(missedGoals(score('good', [...many(99, judged('taken', 'yes')), judged('taken', 'maybe')]))).toEqual([]);
    expect(
      missedGoals(score('bad', [...many(90, judged('taken', 'yes')), ...many(10, judged('taken', 'maybe'))])),
    ).toEqual(['yesRecall', 'maybe']);
    expect(missedGoals(score('bad', [judged('refused', 'yes'), judged('taken', 'no')]))).toEqual([
      'noPrecision',
      'noRecall',
      'yesPrecision',
      'yesRecall',
    ]);
    expect(missedGoals(score('errno', [judged('refused', 'no', 'EBUSY', 'EINVAL')]))).toEqual(['errno']);
  });
});
