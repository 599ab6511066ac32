"""The tables for `world.py`: one row per thing. Change the world here, then run `make_data.py` again."""


def table(text: str) -> list:
    """Rows are lines, columns are split by `|`."""
    return [tuple(cell.strip() for cell in line.split("|")) for line in text.strip().splitlines()]


# name, plural, kind, colour, legs, sound, food, home, baby, what it can do
ANIMALS = table("""
cow       | cows        | farm animal | brown  | four  | moo     | grass     | a barn          | calf     | give milk
horse     | horses      | farm animal | brown  | four  | neigh   | hay       | a stable        | foal     | run fast
pig       | pigs        | farm animal | pink   | four  | oink    | potatoes  | a sty           | piglet   | dig in the mud
sheep     | sheep       | farm animal | white  | four  | baa     | grass     | a field         | lamb     | give wool
goat      | goats       | farm animal | grey   | four  | maa     | leaves    | a shed          | kid      | climb rocks
donkey    | donkeys     | farm animal | grey   | four  | hee-haw | thistles  | a stable        | foal     | carry bags
hen       | hens        | bird        | red    | two   | cluck   | corn      | a hen house     | chick    | lay eggs
duck      | ducks       | bird        | white  | two   | quack   | seeds     | a pond          | duckling | swim
goose     | geese       | bird        | white  | two   | honk    | grass     | a pond          | gosling  | swim
swan      | swans       | bird        | white  | two   | -       | weeds     | a lake          | cygnet   | swim
owl       | owls        | bird        | brown  | two   | hoot    | mice      | a hollow tree   | owlet    | see in the dark
crow      | crows       | bird        | black  | two   | caw     | worms     | a nest          | -        | fly
parrot    | parrots     | bird        | green  | two   | hello   | fruit     | a cage          | -        | talk
penguin   | penguins    | bird        | black  | two   | -       | fish      | a cold land     | chick    | swim
dog       | dogs        | pet         | brown  | four  | woof    | bones     | a kennel        | puppy    | guard the house
cat       | cats        | pet         | black  | four  | meow    | fish      | a basket        | kitten   | climb trees
rabbit    | rabbits     | pet         | white  | four  | -       | carrots   | a burrow        | -        | hop
mouse     | mice        | small animal| grey   | four  | squeak  | cheese    | a hole          | -        | hide
squirrel  | squirrels   | small animal| red    | four  | -       | nuts      | a tree          | -        | climb trees
frog      | frogs       | small animal| green  | four  | croak   | flies     | a pond          | tadpole  | jump
turtle    | turtles     | small animal| green  | four  | -       | weeds     | a shell         | -        | swim
snail     | snails      | small animal| brown  | no    | -       | leaves    | a shell         | -        | crawl
snake     | snakes      | wild animal | green  | no    | hiss    | eggs      | the grass       | -        | crawl
fox       | foxes       | wild animal | red    | four  | yip     | hens      | a den           | cub      | run fast
wolf      | wolves      | wild animal | grey   | four  | howl    | meat      | the forest      | pup      | run far
bear      | bears       | wild animal | brown  | four  | growl   | honey     | a cave          | cub      | climb trees
lion      | lions       | wild animal | yellow | four  | roar    | meat      | a warm land     | cub      | run fast
elephant  | elephants   | wild animal | grey   | four  | trumpet | leaves    | a warm land     | calf     | lift trees
monkey    | monkeys     | wild animal | brown  | two   | chatter | bananas   | the jungle      | -        | climb trees
bee       | bees        | insect      | yellow | six   | buzz    | nectar    | a hive          | -        | make honey
ant       | ants        | insect      | black  | six   | -       | crumbs    | an ant hill     | -        | carry leaves
butterfly | butterflies | insect      | blue   | six   | -       | nectar    | a garden        | -        | fly
""")

# from the smallest to the biggest
SIZES = "ant bee snail mouse frog duck rabbit cat dog sheep cow horse elephant".split()

COLOURS = table("""
the sky        | blue
the sea        | blue
a blueberry    | blue
the grass      | green
a leaf         | green
a pear         | green
a pea          | green
the snow       | white
milk           | white
salt           | white
the night      | black
coal           | black
the sun        | yellow
a banana       | yellow
a lemon        | yellow
butter         | yellow
a tomato       | red
a strawberry   | red
a cherry       | red
a brick        | red
an orange      | orange
a carrot       | orange
a pumpkin      | orange
a plum         | purple
a grape        | purple
chocolate      | brown
bread          | brown
a potato       | brown
a rain cloud   | grey
a stone        | grey
a rose         | pink
""")

TASTES = table("""
honey      | sweet
sugar      | sweet
cake       | sweet
chocolate  | sweet
a lemon    | sour
vinegar    | sour
salt       | salty
the sea    | salty
pepper     | hot
coffee     | bitter
""")

OPPOSITES = table("""
big | small
hot | cold
up | down
day | night
happy | sad
fast | slow
old | young
open | closed
light | dark
wet | dry
hard | soft
full | empty
high | low
long | short
early | late
loud | quiet
left | right
in | out
over | under
good | bad
clean | dirty
rich | poor
strong | weak
first | last
near | far
thick | thin
inside | outside
awake | asleep
begin | end
black | white
push | pull
always | never
yes | no
winter | summer
warm | cool
wide | narrow
true | false
""")

# name, pronoun, job, pet, the pet's name, colour of the house, favourite food, hobby
PEOPLE = table("""
Anna   | She | baker       | cat      | Milo    | red    | cherries     | sing songs
Ben    | He  | farmer      | dog      | Rex     | green  | potatoes     | play the flute
Clara  | She | teacher     | parrot   | Kiki    | yellow | pears        | read books
David  | He  | fisherman   | duck     | Dora    | blue   | fish soup    | row his boat
Emma   | She | doctor      | rabbit   | Snow    | white  | carrots      | paint pictures
Felix  | He  | carpenter   | owl      | Hugo    | brown  | bread        | play chess
Grace  | She | gardener    | turtle   | Speedy  | pink   | strawberries | walk in the hills
Henry  | He  | miller      | donkey   | Bruno   | grey   | pancakes     | fly a kite
Ida    | She | tailor      | mouse    | Pepper  | purple | cheese       | dance
Jack   | He  | postman     | horse    | Star    | orange | apples       | ride his bicycle
Kate   | She | shepherd    | sheep    | Cloud   | black  | butter       | look at the stars
Leo    | He  | cook        | hen      | Ruby    | golden | tomatoes     | tell stories
""")

# the colour of the house, what it is near
HOUSES = table("""
red    | the market
green  | the farm
yellow | the school
blue   | the river
white  | the church
brown  | the forest
pink   | the garden
grey   | the mill
purple | the bridge
orange | the station
black  | the hill
golden | the inn
""")

JOBS = table("""
baker     | bakes   | bread and cakes
farmer    | grows   | corn and potatoes
teacher   | teaches | the children
fisherman | catches | fish in the river
doctor    | helps   | sick people
carpenter | makes   | tables and chairs
gardener  | plants  | flowers and trees
miller    | makes   | flour out of corn
tailor    | sews    | coats and dresses
postman   | brings  | letters and parcels
shepherd  | watches | the sheep
cook      | makes   | soup and dinner
""")

MATERIALS = table("""
table   | wood
chair   | wood
boat    | wood
door    | wood
window  | glass
bottle  | glass
mirror  | glass
book    | paper
letter  | paper
kite    | paper
key     | iron
nail    | iron
hammer  | iron
shirt   | cotton
towel   | cotton
sweater | wool
scarf   | wool
wall    | stone
bridge  | stone
shoe    | leather
bag     | leather
candle  | wax
ring    | gold
coin    | silver
pot     | clay
basket  | straw
hat     | straw
""")

USES = table("""
knife    | cut bread
spoon    | eat soup
cup      | drink tea
pen      | write letters
broom    | sweep the floor
key      | open the door
bed      | sleep at night
umbrella | stay dry in the rain
clock    | tell the time
lamp     | see in the dark
hammer   | hit nails
needle   | sew clothes
soap     | wash our hands
towel    | dry our hands
oven     | bake bread
boat     | cross the river
ladder   | reach high places
brush    | paint pictures
rope     | tie things
basket   | carry fruit
scissors | cut paper
bell     | call the children
map      | find the way
ball     | play games
bucket   | carry water
shovel   | dig holes
kettle   | boil water
saw      | cut wood
""")

BODY = table("""
eyes    | see
ears    | hear
noses   | smell
tongues | taste
hands   | hold things
feet    | walk
teeth   | bite
fingers | touch things
arms    | lift things
""")

PLACES = table("""
school   | children learn to read
bakery   | people buy bread
library  | people borrow books
market   | people buy fruit
station  | trains stop
garden   | flowers grow
kitchen  | Leo cooks dinner
river    | fish swim
forest   | many trees grow
mill     | corn becomes flour
hospital | sick people get well
church   | people sing on Sunday
inn      | travellers sleep
post office | people send letters
""")

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = (
    "January February March April May June July August September October November December".split()
)

# season, weather, what happens
SEASONS = table("""
spring | mild and wet   | the flowers begin to grow
summer | hot and sunny  | the children swim in the river
autumn | cool and windy | the leaves fall from the trees
winter | cold and white | the snow covers the village
""")

NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
).split()
