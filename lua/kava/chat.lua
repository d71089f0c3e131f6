-- kava.chat: conversations as the text a model was trained on: the chat template of its tokenizer, a program in Jinja's language.
-- Equal to what jinja2 makes of it with transformers' settings (trim_blocks, lstrip_blocks, loop controls, {% generation %},
-- raise_exception, strftime_now, tojson). A template is somebody else's program: it sees the messages and nothing of this machine,
-- it cannot change what it is given, and it may spend only so many steps and bytes.
local kava = require "kava"
local parser = require "kava.chat.parser"
local render = require "kava.chat.render"
local value = require "kava.chat.value"

local chat = {}

local BUDGET = 3000000 -- steps and bytes, besides what the length of the messages allows: about a second at the worst

local function guarded(what, f, ...)
  local results = table.pack(pcall(f, ...))
  if results[1] then return table.unpack(results, 2, results.n) end
  local problem = results[2]
  if getmetatable(problem) == value.Error then return nil, ("%s, %s"):format(what, tostring(problem)), "format" end
  if type(problem) == "string" and problem:find("stack overflow", 1, true) then return nil, what .. ": nested too deeply", "format" end
  error(problem, 0)
end

local last_source, last_tree -- most use one template for all their conversations

local function tree_of(source)
  if source ~= last_source then
    if not utf8.len(source) then value.fail_at(1, "the template is not valid UTF-8") end
    last_tree = parser.parse(source)
    last_source = source
  end
  return last_tree
end

local function render_source(source, variables, options)
  value.set_budget(options.budget or BUDGET)
  local given = {}
  for name, v in pairs(variables) do given[name] = value.from_lua(v, name) end
  return render.render(tree_of(source), given, options)
end

--- Renders a template with variables (Lua values) -> text, spans of {% generation %} | nil, message, code. options: now, budget.
function chat.render(source, variables, options)
  return guarded("chat template", render_source, source, variables or {}, options or {})
end

-- Lists and objects may be given as JSON, whose order of keys is then kept.
local function from_json(given, name)
  if type(given) ~= "string" then return given end
  local decoded, message = kava.json.decode(given, { ordered = true })
  if decoded == nil then value.fail("%s: %s", name, message) end
  return decoded
end

-- Where the last message is to be gone on with: a mark behind it, and the text up to the mark (transformers' way).
local MARK = "CONTINUE_FINAL_MESSAGE_TAG "

local function marked(messages)
  local last = messages[#messages]
  if type(last) ~= "table" or type(last.content) ~= "string" then
    value.fail("continue_final_message: a last message whose content is a string expected")
  end
  local copy, message = table.move(messages, 1, #messages, 1, {}), {}
  for key, item in pairs(last) do message[key] = item end
  message.content = last.content .. MARK
  copy[#copy] = setmetatable(message, getmetatable(last))
  return copy
end

local function up_to_mark(text)
  local at, plain = nil, MARK:sub(1, -2)
  repeat
    local found = text:find(plain, (at or 0) + 1, true)
    at = found or at
  until not found
  if not at then value.fail("continue_final_message: the template does not show the last message") end
  local before = text:sub(1, at - 1)
  return text:sub(at, at + #MARK - 1) == MARK and before or value.rstrip(before) -- a template that trims
end

local known = { add_generation_prompt = true, continue_final_message = true, tools = true, chat_template = true, tokenize = true,
  variables = true, now = true, budget = true }

--- tok:apply_chat_template(messages, options); lua/kava/meta/tokenizer.lua says what it does.
function chat.apply(tok, messages, options)
  options = options or {}
  for key in pairs(options) do
    if not known[key] then error(("apply_chat_template: unknown option '%s'"):format(tostring(key)), 3) end
  end
  local source = options.chat_template or tok.chat_template
  if not source then return nil, ("%s: there is no chat template"):format(tok.path), "unsupported" end
  local text, spans, code = guarded(tok.path .. ": chat template", function()
    local variables = { tools = kava.json.null, documents = kava.json.null }
    for _, name in ipairs { "bos", "eos", "pad", "unk" } do
      local id = tok[name .. "_id"]
      if id then variables[name .. "_token"] = tok:token(id) end
    end
    for name, given in pairs(options.variables or {}) do variables[name] = given end
    variables.messages, variables.tools = from_json(messages, "messages"), from_json(options.tools, "tools") or variables.tools
    variables.add_generation_prompt = options.add_generation_prompt == true
    if not options.continue_final_message then return render_source(source, variables, options) end
    if options.add_generation_prompt then value.fail("continue_final_message and add_generation_prompt: one of them expected") end
    variables.messages = marked(variables.messages)
    return up_to_mark((render_source(source, variables, options)))
  end)
  if not text then return nil, spans, code end
  if options.tokenize then return tok:encode(text, { add_special_tokens = false }) end
  return text, spans
end

--- What is wrong with a template -> true | nil, message, code.
function chat.check(source)
  return guarded("chat template", function()
    value.set_budget(BUDGET)
    tree_of(source)
    return true
  end)
end

return chat
