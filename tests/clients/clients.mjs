// openai-node, Anthropic's SDK and Vercel's AI SDK with both of its OpenAI providers.
import assert from 'node:assert/strict'
import Anthropic from '@anthropic-ai/sdk'
import { createOpenAI } from '@ai-sdk/openai'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { generateObject, generateText, jsonSchema, streamText, tool } from 'ai'
import OpenAI from 'openai'

const url = process.argv[3]
const prompt = 'What is the capital of France?'
const messages = [{ role: 'user', content: prompt }]
const schema = { type: 'object', properties: { n: { type: 'integer', enum: [1, 2] } }, required: ['n'], additionalProperties: false }

async function openaiNode() {
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none', maxRetries: 0 })
  const whole = await client.chat.completions.create({ model: 'demo', messages, max_tokens: 20, temperature: 0 })
  const stream = await client.chat.completions.create({ model: 'demo', messages, max_tokens: 20, temperature: 0, stream: true })
  let text = ''
  for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? ''
  assert.equal(text, whole.choices[0].message.content)
  const response = await client.responses.create({ model: 'demo', input: prompt, max_output_tokens: 20, temperature: 0 })
  assert.equal(response.output_text, text)
  const events = client.responses.stream({ model: 'demo', input: prompt, max_output_tokens: 20, temperature: 0 })
  assert.equal((await events.finalResponse()).output_text, text)
  await assert.rejects(client.responses.create({ model: 'other', input: prompt }), OpenAI.NotFoundError)
}

async function anthropicNode() {
  const client = new Anthropic({ baseURL: url, apiKey: 'none', maxRetries: 0 })
  const asked = { model: 'demo', messages, max_tokens: 20, temperature: 0 }
  const whole = await client.messages.create(asked)
  const final = await client.messages.stream(asked).finalMessage()
  assert.equal(final.content[0].text, whole.content[0].text)
  assert.equal(final.usage.output_tokens, whole.usage.output_tokens)
}

async function aiSdk(model, providerOptions) {
  const whole = await generateText({ model, prompt, maxOutputTokens: 20, temperature: 0 })
  const stream = streamText({ model, prompt, maxOutputTokens: 20, temperature: 0, onError: ({ error }) => { throw error } })
  let text = ''
  for await (const piece of stream.textStream) text += piece
  assert.equal(text, whole.text)
  assert.ok((await stream.usage).outputTokens > 0)
  const { object } = await generateObject({ model, prompt: 'A number', schema: jsonSchema(schema) })
  assert.equal(typeof object.n, 'number')
  const tools = { look_up: tool({ inputSchema: jsonSchema(schema), execute: async () => 'Paris' }) }
  const first = await generateText({ model, prompt, tools, toolChoice: 'required', providerOptions })
  assert.equal(first.toolCalls[0].toolName, 'look_up')
  const second = await generateText({
    model,
    tools,
    maxOutputTokens: 20,
    messages: [...messages, ...first.response.messages, { role: 'user', content: 'Well?' }],
    providerOptions,
  })
  assert.equal(typeof second.text, 'string')
}

// Its default is to refer to what it believes stored. Nothing is: the refusal says what to do.
async function aiSdkResponses(model) {
  await aiSdk(model, { openai: { store: false } })
  const first = await generateText({ model, prompt, maxOutputTokens: 5 })
  const further = [...messages, ...first.response.messages, { role: 'user', content: 'Well?' }]
  await assert.rejects(generateText({ model, messages: further, maxRetries: 0 }), /store=false/)
}

const checks = {
  'openai-node': openaiNode,
  'anthropic-node': anthropicNode,
  'ai-sdk-compatible': () => aiSdk(createOpenAICompatible({ name: 'prelude', baseURL: `${url}/v1`, includeUsage: true, supportsStructuredOutputs: true })('demo')),
  'ai-sdk-openai': () => aiSdkResponses(createOpenAI({ baseURL: `${url}/v1`, apiKey: 'none' })('demo')),
}
await checks[process.argv[2]]()
