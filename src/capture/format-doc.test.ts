// docs/formats/capture.md against the code: what it shows has to be so.

import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { BUNDLE_HEADER_BYTES, BUNDLE_MAGIC, BUNDLE_VERSION } from './bundle.ts';
import { parseTable } from './bundle-table.ts';
import { CONDITIONS, DIRECTORIES, FILES, PAGES } from './manifest.ts';
import { decodeRuns } from './page-runs.ts';
import { redact } from './redact.ts';

const doc = readFileSync(new URL('../../docs/formats/capture.md', import.meta.url), 'utf8');
const fenced = (language: string): string[] =>
  [...doc.matchAll(/^```(\w*)\n([\s\S]*?)^```$/gm)].filter((m) => m[1] === language).map((m) => m[2]);
const hexOf = (bytes: readonly number[]): string => bytes.map((byte) => byte.toString(16).padStart(2, '0')).join(' ');

it('FD1 the document describes this version, its magic and its header', () => {
  expect(doc).toContain(`## Bundle, version ${BUNDLE_VERSION}`);
  expect(doc).toContain(hexOf(BUNDLE_MAGIC));
  expect(doc).toContain(`exactly ${BUNDLE_HEADER_BYTES} + bodyBytes`);
});

it('FD2 every place that is read is in its table', () => {
  for (const { path } of [...FILES, ...CONDITIONS, ...PAGES, ...DIRECTORIES])
    expect(doc, path).toContain(`\`${path}\``);
});

it('FD3 the table of contents it shows is one that a reader takes', () => {
  const shown: unknown = JSON.parse(fenced('json')[0]);
  expect(parseTable(shown)).toEqual(shown);
});

it('FD4 the page words it shows are the words it says', () => {
  const bytes = fenced('')[0]
    .trim()
    .split(/\s+/)
    .map((byte) => Number.parseInt(byte, 16));
  const runs = decodeRuns(Uint8Array.from(bytes));
  expect(runs && [...runs.startPfn, runs.endPfn]).toEqual([0, 1, 201, 204]);
  expect(runs && [...runs.word].map((word) => [runs.lo[word], runs.hi[word]])).toEqual([
    [0x400, 0],
    [0x5828, 0x20],
    [0x400, 0],
  ]);
});

it('FD5 the boot line it shows is kept as it says', () => {
  const [line, kept] = [...doc.matchAll(/`(root=[^`]+)`/g)].map((m) => m[1]);
  expect(redact('/proc/cmdline', line, {})).toBe(kept);
});
