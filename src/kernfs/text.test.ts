import { describe, expect, it } from 'vitest';
import {
  fieldsOf,
  formatProblem,
  linesOf,
  printCount,
  quoted,
  readCount,
  readCounts,
  readInt,
  singleLine,
} from './text.ts';

const problemOf = (text: string) => {
  const lines = linesOf(text, '/proc/x');
  return lines.ok ? undefined : formatProblem(lines.error);
};

describe('lines', () => {
  it('KF4 a text that does not end in a newline is refused, naming the line', () => {
    expect(problemOf('a 1\nb 12')).toBe('/proc/x, line 2: the file was cut off in the middle of a line: "b 12"');
  });
  it('KF6 CRLF reads like LF, and a lone CR stays where it is', () => {
    expect(linesOf('a\r\nb\rc\r\n', 'f')).toEqual({ ok: true, value: ['a', 'b\rc'] });
  });
  it('KF3 an empty file and NUL bytes are refused', () => {
    expect(problemOf('')).toBe('/proc/x: the file is empty');
    expect(problemOf('a\n\0\n')).toBe('/proc/x, line 2: this is not text: the line holds NUL bytes');
  });
  it('a long offending text is quoted in part, control characters escaped', () => {
    expect(quoted('x'.repeat(100))).toBe(`"${'x'.repeat(60)}..."`);
    expect(quoted('a\tb')).toBe('"a\\tb"');
  });
  it('a one-line file loses its end, CRLF too, and keeps its blanks', () => {
    expect(singleLine('a b \r\n')).toBe('a b ');
    expect(singleLine('a')).toBe('a');
    expect(singleLine('a\nb\n')).toBeUndefined();
  });
});

describe('counters', () => {
  it('KF2 what readCount accepts prints back: the ends of the exact range', () => {
    for (const text of ['0', '9007199254740991', '18446744073709551615', '18437736874454810625']) {
      const n = readCount(text);
      expect(n, text).toBeDefined();
      expect(printCount(n as number)).toBe(text);
    }
  });
  it('a counter below zero is printed by the kernel near 2^64 and held as negative', () => {
    expect(readCount('18446744073709551611')).toBe(-5);
    expect(printCount(-5)).toBe('18446744073709551611');
  });
  it('what would not be exact is refused, not rounded', () => {
    for (const text of ['9007199254740992', '18437736874454810624', '18446744073709551616', '99999999999999999999']) {
      expect(readCount(text), text).toBeUndefined();
    }
  });
  it('only plain decimals are counters', () => {
    for (const text of ['', '01', '-1', '+1', '1.0', '1e3', '0x1', ' 1']) expect(readCount(text), text).toBeUndefined();
    expect(readCounts(['1', 'x'])).toBeUndefined();
  });
  it('an int has a sign and 32 bits', () => {
    expect([readInt('-5'), readInt('2147483647'), readInt('2147483648'), readInt('-0'), readInt('')]).toEqual([
      -5,
      2147483647,
      undefined,
      undefined,
      undefined,
    ]);
  });
  it('fields are what stands between blanks', () => {
    expect(fieldsOf('  1   22 ')).toEqual(['1', '22']);
  });
});
