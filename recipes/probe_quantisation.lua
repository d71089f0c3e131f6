-- What quantising a teacher does to what it teaches: layer by layer, the error of its keys and values against its 16-bit self.
--   kava recipes/probe_quantisation.lua teacher=DIR quantize=nf4 text=FILE          quantised here
--   kava recipes/probe_quantisation.lua teacher=MODEL.gguf reference=DIR text=FILE  quantised elsewhere
-- A KV loss compares a student with the quantised teacher: what it holds of this error is noise.
local cli = require "kava.cli"

local keys = {
  { heading = "Models" },
  { "teacher", "string", "a Hugging Face folder or a GGUF file" },
  { "quantize", "string", "quantise the teacher while it is loaded", choices = { "none", "nf4", "nf4-dq", "int8", "fp8" } },
  { "reference", "string", "its 16-bit self; none: the teacher as its file has it, where quantize changes it" },
  { heading = "Text" },
  { "text", "string", "a file; each paragraph (a piece between empty lines) is a text of its own" },
  { "length", "integer", "tokens of a text that are read, at most", min = 1 },
  { "tokens", "integer", "tokens in all, at most", min = 1 },
  { "threads", "integer", "0: the CPUs this process may use", min = 0 },
}

-- The file's paragraphs, until they have so many tokens.
local function paragraphs(text, tokenizer, length, most)
  local list, count = {}, 0
  for paragraph in (text:gsub("\r\n", "\n") .. "\n\n"):gmatch "(.-)\n%s*\n" do
    if count >= most then break end
    if paragraph:find "%S" then
      list[#list + 1] = paragraph
      count = count + math.min(#tokenizer:encode(paragraph), length)
    end
  end
  return list
end

local function run(c, options)
  local kava = require "kava"
  if not c.teacher or not c.text then cli.fail("teacher=PATH and text=FILE are needed; --help says what they are", cli.exit.usage) end
  local quantize = c.quantize ~= "none" and c.quantize or nil
  if not quantize and not c.reference then
    cli.fail("quantize=METHOD or reference=PATH is needed: there is nothing to compare", cli.exit.usage)
  end
  local file = cli.try(io.open(c.text, "rb"))
  local text = file:read "a"
  file:close()
  kava.threads(c.threads)
  local teacher = cli.try(kava.model.load(c.teacher, { quantize = quantize }))
  local reference = cli.try(kava.model.load(c.reference or c.teacher))
  local tokenizer = cli.try(kava.tokenizer.load(c.reference or c.teacher))
  local texts = paragraphs(text, tokenizer, c.length, c.tokens)
  if #texts == 0 then cli.fail(c.text .. ": there is no text in it") end
  local found = teacher:quantisation_error { reference = reference, text = texts, tokenizer = tokenizer, length = c.length }
  if options.json then
    print(kava.json.encode(found))
    return
  end
  print(("%s%s against %s: %d texts, %d tokens"):format(c.teacher, quantize and " as " .. quantize or "", c.reference or "itself", #texts,
    found.tokens))
  print(("%-6s %10s %10s %10s %10s"):format("layer", "K rms", "K cosine", "V rms", "V cosine"))
  local function line(name, at)
    print(("%-6s %9.2f%% %10.5f %9.2f%% %10.5f"):format(name, 100 * at.keys.rms, at.keys.cosine, 100 * at.values.rms, at.values.cosine))
  end
  for i, layer in ipairs(found.layers) do line(i, layer) end
  line("all", found)
end

return cli.recipe({
  name = "probe_quantisation",
  about = "Shows, layer by layer, how far a quantised teacher's keys and values are from those of its 16-bit self.",
  keys = keys,
  defaults = { quantize = "none", length = 512, tokens = 4096, threads = 0 },
  json = true,
  run = run,
}, ...)
