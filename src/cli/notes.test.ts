import { describe, expect, it } from 'vitest';
import type { CaptureProblem } from '#capture/capture';
import { notesOf } from './notes.ts';

const problem = (file: string, remedy: string): CaptureProblem => ({
  file,
  kind: 'denied',
  detail: 'reading it is refused (EACCES).',
  lost: `what ${file} says.`,
  remedy,
});

describe('notes on stderr', () => {
  it('Q5 problems that one remedy cures are one note; conditions of one file do not part them', () => {
    const notes = notesOf([
      problem('/proc/iomem', 'run it as root'),
      problem('/proc/version', 'mount /proc'),
      problem('/proc/kpageflags', 'run it as root; needs CONFIG_PROC_PAGE_MONITOR'),
    ]);
    expect(notes).toHaveLength(2);
    expect(notes[0]).toBe(
      [
        'note: 2 files are missing or say too little',
        '      /proc/iomem denied: lost: what /proc/iomem says',
        '      /proc/kpageflags denied: lost: what /proc/kpageflags says',
        '      remedy: run it as root',
      ].join('\n'),
    );
  });

  it('Q5 a lone problem says everything', () => {
    expect(notesOf([problem('/proc/kpageflags', 'run it as root; needs CONFIG_X.')])).toEqual([
      'note: /proc/kpageflags denied: reading it is refused (EACCES)\n      lost: what /proc/kpageflags says\n      remedy: run it as root; needs CONFIG_X',
    ]);
    expect(notesOf([])).toEqual([]);
  });
});
