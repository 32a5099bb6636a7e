import { dirname, join, normalize } from 'node:path';
import { describe, expect, it } from 'vitest';
import { EFFECTS, LAYERS, type Layer, layerOf } from '../tools/import-rules.ts';
import { codeOf, repositoryFiles, textOf } from './support/source-files.ts';

const isTest = (f: string): boolean => /\.(test|fuzz|cases)\.ts$/.test(f);
const sources = repositoryFiles().filter((f) => f.startsWith('src/') && f.endsWith('.ts') && !isTest(f));

/** Modules that a file imports, as written. */
const importsOf = (text: string): string[] =>
  [...codeOf(text).matchAll(/(?:\bfrom|\bimport)\s*\(?\s*'([^'\n]+)'/g)].map((m) => m[1] as string);

/** The layer that an import reaches; 'package' for npm, 'node' for node:*. */
function target(file: string, spec: string): string {
  if (spec.startsWith('node:')) return 'node';
  if (spec.startsWith('.')) {
    const path = normalize(join(dirname(file), spec)).replace(/^src\//, '');
    return layerOf(path)?.name ?? path;
  }
  if (spec.startsWith('#')) return layerOf(`${spec.slice(1)}.ts`)?.name ?? spec;
  return 'package';
}

describe('import rules', () => {
  it('every source file belongs to a layer', () => {
    expect(sources.filter((f) => layerOf(f.slice(4)) === undefined)).toEqual([]);
    expect(sources.length).toBeGreaterThan(30); // a listing that finds nothing would prove nothing
  });

  it('imports point only where tools/import-rules.ts allows', () => {
    const wrong: string[] = [];
    for (const file of sources) {
      const layer = layerOf(file.slice(4)) as Layer; // the test above
      for (const spec of importsOf(textOf(file))) {
        const to = target(file, spec);
        if (to === layer.name || to === 'base') continue;
        if (to === 'node') {
          if (layer.pure) wrong.push(`${file}: ${spec} (a pure layer)`);
        } else if (to === 'package') {
          if (!layer.packages.includes(spec)) wrong.push(`${file}: package ${spec}`);
        } else if (!layer.may.includes(to)) {
          wrong.push(`${file}: ${spec} (${layer.name} may not import ${to})`);
        }
      }
    }
    expect(wrong).toEqual([]);
  });

  it('pure layers have no effects', () => {
    const wrong: string[] = [];
    for (const file of sources) {
      if (layerOf(file.slice(4))?.pure !== true) continue;
      codeOf(textOf(file))
        .split('\n')
        .forEach((line, k) => {
          for (const e of EFFECTS)
            if (e.pattern.test(line)) wrong.push(`${file}:${k + 1}: ${line.trim()} -> ${e.instead}`);
        });
    }
    expect(wrong).toEqual([]);
  });

  it('no layer reaches itself through another', () => {
    const reach = (name: string, seen: Set<string>): Set<string> => {
      for (const next of LAYERS.find((l) => l.name === name)?.may ?? []) {
        if (!seen.has(next)) reach(next, seen.add(next));
      }
      return seen;
    };
    for (const l of LAYERS) expect(reach(l.name, new Set()).has(l.name), l.name).toBe(false);
  });

  it('ARCHITECTURE.md shows the same table', () => {
    const text = textOf('ARCHITECTURE.md');
    const rows = [...text.matchAll(/^\|\s*`([a-z/-]+)`\s*\|([^|]*)\|([^|]*)\|/gm)].map((m) => [
      m[1],
      (m[2] as string).trim(),
      (m[3] as string).trim(),
    ]);
    const expected = LAYERS.map((l) => [
      l.name,
      [...l.may, ...l.packages].join(', ') || 'nothing',
      l.pure ? 'none' : 'yes',
    ]);
    expect(rows).toEqual(expected);
  });

  it('the rules can fail: an import that is not allowed is found', () => {
    expect(importsOf("import { a } from '#mm/machine';\nexport * from './b.ts';")).toEqual(['#mm/machine', './b.ts']);
    expect(target('src/kernfs/a.ts', '#mm/machine')).toBe('mm');
    expect(LAYERS.find((l) => l.name === 'kernfs')?.may.includes('mm')).toBe(false);
  });
});
