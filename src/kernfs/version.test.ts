import { describe, expect, it } from 'vitest';
import { goldenPaths, goldenText } from '../../test/golden/kernfs/load.ts';
import { isAtLeast, parseVersion, printVersion } from './version.ts';

const parsed = (text: string) => {
  const version = parseVersion(text);
  return version.ok ? version.value : version.error.reason;
};

describe('version', () => {
  it('KF1 every golden version prints back', () => {
    const paths = goldenPaths('version');
    expect(paths.length).toBe(3);
    for (const path of paths) {
      const version = parseVersion(goldenText(path));
      expect(version.ok && printVersion(version.value), path).toBe(goldenText(path));
    }
  });
  it('takes major and minor from the release, whatever a distribution appends', () => {
    expect(parsed(goldenText('guest-6.1-mixed-online/version'))).toMatchObject({
      release: '6.1.0-56-amd64',
      major: 6,
      minor: 1,
    });
    expect(parsed('Linux version 7.0-rc3\n')).toEqual({ release: '7.0-rc3', major: 7, minor: 0, rest: '' });
  });
  it('KF3 refuses other texts', () => {
    expect(parsed('Darwin Kernel Version 23\n')).toBe(
      'expected "Linux version MAJOR.MINOR...", found "Darwin Kernel Version 23"',
    );
    for (const text of ['', 'Linux version 6\n', 'Linux version 6.x\n', 'a\nb\n']) {
      expect(typeof parsed(text), text).toBe('string');
    }
  });
  it('compares by major, then minor: 6.12 is newer than 6.2, 7.0 than 6.18', () => {
    const at = (major: number, minor: number) => ({ release: '', rest: '', major, minor });
    expect(isAtLeast(at(6, 12), { major: 6, minor: 2 })).toBe(true);
    expect(isAtLeast(at(7, 0), { major: 6, minor: 18 })).toBe(true);
    expect(isAtLeast(at(6, 1), { major: 6, minor: 2 })).toBe(false);
    expect(isAtLeast(at(5, 19), { major: 6, minor: 1 })).toBe(false);
  });
});
