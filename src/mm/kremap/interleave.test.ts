// R6 by exhaustion: two readers, a writer, a mover; and that the model notices each step that is missing.

import { describe, expect, it } from 'vitest';
import { interleave } from './interleave.ts';
import { KREMAP_STEPS, type KremapStep } from './protocol.ts';

const without = (...gone: KremapStep[]): KremapStep[] => KREMAP_STEPS.filter((s) => !gone.includes(s));

describe('R6 every interleaving of two readers, a writer and a mover', () => {
  for (const freeze of ['write-protect', 'stop'] as const) {
    for (const image of [false, true]) {
      it(`R6 ${freeze}${image ? ', two aliases' : ''}: a reader sees the word that was stored last`, () => {
        const seen = interleave({ freeze, image });
        expect(seen.violations).toEqual([]);
        expect(seen.states).toBeGreaterThan(1000);
        expect(seen.ends).toBeGreaterThan(10);
      });
    }
  }
});

describe('R6 what each step is for: without it some interleaving goes wrong', () => {
  it.each([
    ['freeze', 'write-protect'],
    ['freeze', 'stop'],
    ['copy', 'write-protect'],
    ['shootdown', 'write-protect'],
    ['shootdown', 'stop'],
    ['switch', 'stop'],
    ['commit', 'write-protect'],
    ['commit', 'stop'],
  ] as const)('R6 without %s (%s)', (step, freeze) => {
    expect(interleave({ freeze, image: true, steps: without(step) }).violations).not.toEqual([]);
  });

  it('R6 without the flush of the freeze, a writer whose entry is stale loses a write', () => {
    const seen = interleave({ freeze: 'write-protect', image: false, without: ['freeze flush 2'] });
    expect(seen.violations).not.toEqual([]);
  });

  it('R6 an alias that is not switched leads to a frame that is another’s', () => {
    const seen = interleave({ freeze: 'write-protect', image: true, without: ['switch alias 1'] });
    expect(seen.violations).not.toEqual([]);
  });

  it('R6 an abort that does not shoot down leaves a reader with the frame that is given back', () => {
    const gone = ['cpu 0 flushed', 'cpu 1 flushed', 'cpu 2 flushed'];
    expect(interleave({ freeze: 'write-protect', image: false, without: gone }).violations).not.toEqual([]);
  });

  it('R6 a source that is released before the shootdown is read as rubbish', () => {
    const steps: KremapStep[] = ['reserve', 'freeze', 'copy', 'switch', 'release', 'shootdown', 'verify', 'commit'];
    expect(interleave({ freeze: 'stop', image: false, steps }).violations).not.toEqual([]);
  });

  it('R6 a thaw before the switch lets the writer write to the frame that is left', () => {
    const steps: KremapStep[] = ['reserve', 'freeze', 'copy', 'commit', 'switch', 'shootdown', 'verify', 'release'];
    expect(interleave({ freeze: 'write-protect', image: false, steps }).violations).not.toEqual([]);
  });
});
