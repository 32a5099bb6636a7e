import { describe, expect, it } from 'vitest';
import { type Column, formatTable, pickColumns } from './table.ts';

type Row = { readonly name: string; readonly n: number; readonly why: string };
const COLUMNS: readonly Column<Row>[] = [
  { name: 'NAME', align: 'left', help: '', text: (r) => r.name, narrow: 'drop' },
  { name: 'N', align: 'right', help: '', text: (r) => String(r.n), hint: 5 },
  { name: 'WHY', align: 'left', help: '', text: (r) => r.why, prose: true },
];
const ROWS: readonly Row[] = [
  { name: 'a', n: 1, why: 'one two three four five six seven' },
  { name: 'bcdefg', n: 23, why: '' },
];
const style = { form: 'table', headings: true, colour: false, width: undefined, chosen: false } as const;

describe('formatTable', () => {
  it('aligns, and never ends a line with a blank', () => {
    expect(formatTable(ROWS, COLUMNS, style)).toBe(
      'NAME       N WHY\na          1 one two three four five six seven\nbcdefg    23\n',
    );
  });

  it('wraps prose within the width, below itself', () => {
    const text = formatTable(ROWS, COLUMNS, { ...style, width: 40 });
    expect(text.split('\n')).toContain('             seven');
    expect(Math.max(...text.split('\n').map((l) => l.length))).toBeLessThanOrEqual(40);
  });

  it('drops a droppable column when it is too narrow, unless the user chose the columns', () => {
    expect(formatTable(ROWS, COLUMNS, { ...style, width: 30 })).not.toContain('NAME');
    expect(formatTable(ROWS, COLUMNS, { ...style, width: 30, chosen: true })).toContain('NAME');
  });

  it('puts prose on a line of its own when nothing else fits', () => {
    const text = formatTable(ROWS, COLUMNS, { ...style, width: 28, headings: false });
    expect(text).toBe('    1\n    one two three four five\n    six seven\n   23\n');
  });

  it('a hint widens a column only when the cells are no narrower than the heading, as in libsmartcols', () => {
    const column: Column<string> = { name: 'SIZE', align: 'right', help: '', text: (s) => s, hint: 5 };
    expect(formatTable(['2G'], [column], style)).toBe('SIZE\n  2G\n');
    expect(formatTable(['128M'], [column], style)).toBe(' SIZE\n 128M\n');
  });

  it('pairs and raw are safe to parse', () => {
    const rows = [{ name: 'a "b" $c', n: 1, why: '' }];
    expect(formatTable(rows, COLUMNS, { ...style, form: 'pairs' })).toBe('NAME="a \\x22b\\x22 \\x24c" N="1" WHY=""\n');
    expect(formatTable(rows, COLUMNS, { ...style, form: 'raw' })).toBe('NAME N WHY\na\\x20"b"\\x20$c 1 \n');
  });

  it('no rows are no table', () => {
    expect(formatTable([], COLUMNS, style)).toBe('');
  });
});

describe('pickColumns', () => {
  const names = (spec: string | undefined): string => {
    const picked = pickColumns(spec, COLUMNS, ['N']);
    return picked.ok ? picked.value.map((c) => c.name).join() : picked.error;
  };

  it('+ adds, no + replaces, case and doubles do not matter', () => {
    expect(names(undefined)).toBe('N');
    expect(names('+why')).toBe('N,WHY');
    expect(names('why,Name,WHY')).toBe('WHY,NAME');
    expect(names('+N')).toBe('N');
  });

  it('an unknown name is refused with the names there are', () => {
    expect(names('SZE')).toBe('there is no column "SZE"; there are NAME, N, WHY');
    expect(names('+')).toMatch(/^there is no column ""/);
  });
});
