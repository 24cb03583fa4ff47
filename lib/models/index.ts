/** Language models from Hugging Face directories: `import { load } from 'seqmix/models'`. */
export { load, type LoadOptions, type LoadProgress } from './load.js'
export { LanguageModel } from './model.js'
export { ModelCache } from './cache.js'
export type { CacheOptions } from './network.js'
export type { GenerateOptions } from './generate.js'
export type { HostIds, TokenIds } from './ids.js'
export { StreamDecoder, TextTokenizer, type DecodeOptions, type EncodeOptions } from './tokenizer.js'
export type { Signal } from './signal.js'
