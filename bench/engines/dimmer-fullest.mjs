import { createWith } from './dimmer.mjs';

export const create = createWith('fullest');
