// Help, version and completion: what a newcomer meets first.

import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ROOT } from '../support/source-files.ts';
import { runCli } from './run-cli.ts';

const VERBS = [
  'check',
  'explain',
  'map',
  'ls',
  'top',
  'capture',
  'unpack',
  'verify',
  'sim',
  'pool',
  'shell',
  'export',
  'demo',
  'mount',
  'completion',
];

describe('help', () => {
  it('the program’s help names every command, the exit codes, and that nothing is written', () => {
    const { code, out } = runCli(['--help']);
    expect(code).toBe(0);
    for (const verb of VERBS) expect(out).toMatch(new RegExp(`^ +${verb} `, 'm'));
    expect(out).toMatch(/Exit codes: 0 .*130/);
    expect(out).toMatch(/never writes to \/sys or \/proc/);
  });

  it.each(VERBS)('%s --help has an example', (verb) => {
    const { code, out } = runCli([verb, '--help']);
    expect(code).toBe(0);
    expect(out).toMatch(/Examples?:\n {2}(sudo )?dimmer /);
  });

  it('no command is a usage error that shows the way', () => {
    const { code, out, err } = runCli([]);
    expect({ code, out }).toEqual({ code: 2, out: '' });
    expect(err).toMatch(/Try: dimmer check\n$/);
  });

  it('--version is package.json’s', () => {
    const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));
    expect(runCli(['--version']).out).toBe(`${version}\n`);
  });
});

describe('completion', () => {
  const complete = (words: readonly string[]): string[] => {
    const script = `${runCli(['completion', 'bash']).out}
COMP_WORDS=(${words.map((w) => `'${w}'`).join(' ')}); COMP_CWORD=${words.length - 1}; _dimmer; printf '%s\\n' "\${COMPREPLY[@]}"`;
    const ran = spawnSync('bash', ['--norc', '-c', script], { encoding: 'utf8' });
    expect(ran.stderr).toBe('');
    return ran.stdout.trim().split('\n');
  };

  it('bash completes commands, targets, options and the things that ls knows', () => {
    expect(complete(['dimmer', 'ch'])).toEqual(['check']);
    expect(complete(['dimmer', 'check', 'b'])).toEqual(['block:']);
    expect(complete(['dimmer', 'check', '--js'])).toEqual(['--json']);
    expect(complete(['dimmer', 'ls', 'z'])).toEqual(['zones']);
    expect(complete(['dimmer', 'ls', 'p'])).toEqual(['pools']);
    expect(complete(['dimmer', 'pool', 'cr'])).toEqual(['create']);
    expect(complete(['dimmer', 'pool', '--dry'])).toEqual(['--dry-run']);
    expect(complete(['dimmer', 'demo', 'pools/e'])).toEqual(['pools/embedded']);
    expect(complete(['dimmer', 'completion', ''])).toContain('fish');
    expect(complete(['dimmer', 'check', '--from', 'q'])).toEqual(['qemu:']);
    expect(complete(['dimmer', 'top', '--from', 'pack'])).toContain('package.json');
    expect(complete(['dimmer', 'top', '--onc'])).toEqual(['--once']);
  });

  it('zsh and fish scripts name every command', () => {
    for (const shell of ['zsh', 'fish']) {
      const { code, out } = runCli(['completion', shell]);
      expect(code).toBe(0);
      for (const verb of VERBS) expect(out).toContain(verb);
    }
  });
});
