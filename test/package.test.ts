// The package as others get it: every export resolves to a file that exists and has what its page says, and what is
// packed holds what the commands need.

import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ROOT, textOf } from './support/source-files.ts';

type Package = {
  readonly bin: Record<string, string>;
  readonly exports: Record<string, string | { readonly types: string; readonly default: string }>;
  readonly dependencies: Record<string, string>;
};
const pkg = JSON.parse(textOf('package.json')) as Package;

/** Names that a subpath gives, as a stranger's program sees them. */
const namesOf = (subpath: string): string[] => {
  const from = subpath === '.' ? 'dimmer' : `dimmer/${subpath.slice(2)}`;
  const program = `import * as m from ${JSON.stringify(from)}; console.log(JSON.stringify(Object.keys(m)))`;
  return JSON.parse(
    execFileSync(process.execPath, ['--input-type=module', '-e', program], { cwd: ROOT, encoding: 'utf8' }),
  );
};

describe('the package', () => {
  it('every export and the command exist after a build', () => {
    const files = Object.values(pkg.exports).flatMap((e) => (typeof e === 'string' ? [e] : [e.types, e.default]));
    expect([...files, ...Object.values(pkg.bin)].filter((f) => !existsSync(join(ROOT, f)))).toEqual([]);
  });

  it('subpaths give what they are for', () => {
    expect(namesOf('.')).toEqual(expect.arrayContaining(['Machine', 'simpleSpec', 'toPfn', 'OfflineWork']));
    expect(namesOf('./kernfs')).toEqual(expect.arrayContaining(['parseZoneinfo', 'printZoneinfo', 'labTree']));
    expect(namesOf('./capture')).toEqual(expect.arrayContaining(['decodeBundle', 'encodeBundle', 'RunBuilder']));
    expect(namesOf('./machine-file')).toEqual(expect.arrayContaining(['parseMachineFile', 'sratToSpec']));
    expect(namesOf('./twin')).toEqual(expect.arrayContaining(['buildTwin', 'judgeAll', 'jointly', 'explain']));
    expect(namesOf('./query')).toEqual(expect.arrayContaining(['parseTarget', 'memoryMap']));
    expect(namesOf('./plan')).toEqual(expect.arrayContaining(['plan', 'readPlan', 'observe']));
    expect(namesOf('./control')).toEqual(expect.arrayContaining(['execute', 'resume', 'decodeJournal']));
    expect(namesOf('./hosts/qemu')).toEqual(expect.arrayContaining(['openGuest', 'qemuHost']));
    expect(namesOf('./hosts/recording')).toEqual(expect.arrayContaining(['recordHost', 'playHost']));
    expect(namesOf('./hosts/linux')).toEqual(expect.arrayContaining(['readCapture', 'writeBundle']));
  });

  it('has two dependencies at run time, for what people write', () => {
    expect(Object.keys(pkg.dependencies)).toEqual(['commander', 'yaml']);
  });

  it('what is packed holds the command, the engine and the bundled capture, and no tests', () => {
    const out = execFileSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], {
      cwd: ROOT,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    const files = (JSON.parse(out) as { files: { path: string }[] }[])[0].files.map((f) => f.path);
    expect(files).toEqual(
      expect.arrayContaining([
        'dist/cli/main.js',
        'dist/mm/index.js',
        'dist/mm/index.d.ts',
        'test/golden/demo.dimmer',
        'LICENSE',
      ]),
    );
    expect(files.filter((f) => /\.(test|fuzz|cases)\./.test(f))).toEqual([]);
  });
});
